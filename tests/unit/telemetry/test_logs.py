"""Log lines: their form, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from hotstart_proxy.telemetry.logs import configure_logs, log_event, masked


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the logs go; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def log(stream: io.StringIO, form: str, fields: dict[str, object], level: str = "info") -> str:
    configure_logs(form, level, stream)
    log_event(logging.getLogger("hotstart_proxy.test"), logging.INFO, "request", fields)
    return stream.getvalue()


def test_logfmt(stream: io.StringIO) -> None:
    """Plain values stand bare, others quoted as in JSON; None is left out; one event is one line."""
    line = log(
        stream,
        "logfmt",
        {"path": "/a", "text": 'x "y"\nz', "empty": "", "count": 3, "part": 0.25, "yes": True, "none": None},
    )
    assert line.startswith("time=20")
    assert line.endswith(
        'level=info event=request path=/a text="x \\"y\\"\\nz" empty="" count=3 part=0.25 yes=true\n'
    )
    assert line.count("\n") == 1


def test_json(stream: io.StringIO) -> None:
    """JSON keeps numbers as numbers, and is one object a line."""
    line = log(stream, "json", {"path": "/a", "count": 3, "part": 0.25, "yes": True, "text": "a\nb"})
    members = json.loads(line)
    assert line.count("\n") == 1
    assert members.pop("time").endswith("Z")
    assert members == {
        "level": "info",
        "event": "request",
        "path": "/a",
        "count": 3,
        "part": 0.25,
        "yes": True,
        "text": "a\nb",
    }


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_hostile_values(stream: io.StringIO, form: str) -> None:
    """Undecodable bytes, control characters and megabytes make one short, printable line."""
    line = log(stream, form, {"path": "/\udcff\x1b[31m" + "a" * 1_000_000})
    assert line.count("\n") == 1
    assert len(line) < 5000
    assert "\x1b" not in line
    line.encode("utf-8")


def test_levels(stream: io.StringIO) -> None:
    """What lies under the level is not logged; libraries are heard from warning on."""
    assert log(stream, "logfmt", {}, level="warning") == ""
    configure_logs("logfmt", "debug", stream)
    logging.getLogger("botocore").info("chatter")
    assert stream.getvalue() == ""
    logging.getLogger("botocore").warning("https://b/k?X-Amz-Signature=abc&X-Amz-Credential=AKIA%2F1")
    assert "abc" not in stream.getvalue()
    assert "AKIA" not in stream.getvalue()
    assert "logger=botocore" in stream.getvalue()


def test_exceptions(stream: io.StringIO) -> None:
    """An exception is a member of its line, its traceback masked as well."""
    configure_logs("json", "info", stream)
    error = ValueError("https://b/k?X-Amz-Signature=abc")
    logging.getLogger("hotstart_proxy.test").error("a request failed", exc_info=error)
    members = json.loads(stream.getvalue())
    assert members["error"] == "ValueError: https://b/k?X-Amz-Signature=***"
    assert members["traceback"] == "ValueError: https://b/k?X-Amz-Signature=***"
    assert "abc" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("x?X-Amz-Security-Token=a%2Fb&y=1", "x?X-Amz-Security-Token=***&y=1"),
        ("x?AWSAccessKeyId=A&Signature=b%3D&Expires=1", "x?AWSAccessKeyId=***&Signature=***&Expires=1"),
        ("cannot reach rediss://user:p%40ss@host:6379/0", "cannot reach rediss://***@host:6379/0"),
        ("redis+cluster://:pass@a:1,b:2", "redis+cluster://***@a:1,b:2"),
        ("{'X-Amz-Security-Token': b'abc', 'Host': 'b'}", "{'X-Amz-Security-Token': b'***', 'Host': 'b'}"),
        (
            "session_token=abc, aws_secret_access_key: 'x/y'",
            "session_token=***, aws_secret_access_key: '***'",
        ),
        ("http://h:1/v1/models/org/bert@7/a=b", "http://h:1/v1/models/org/bert@7/a=b"),
        ("nothing secret, no basic token", "nothing secret, no basic token"),
    ],
)
def test_masked(text: str, shown: str) -> None:
    """Signatures and tokens are blanked wherever they stand."""
    assert masked(text) == shown


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_the_number_of_a_worker(stream: io.StringIO, form: str) -> None:
    """Every line says which worker it is from, a library's too; with one process there is no such field."""
    assert "worker" not in log(stream, form, {"path": "/a"})
    stream.truncate(0)
    configure_logs(form, "info", stream, worker=3)
    log_event(logging.getLogger("hotstart_proxy.test"), logging.INFO, "request", {})
    logging.getLogger("somebody.else").warning("careful")
    expected = "worker=3" if form == "logfmt" else '"worker": 3'
    assert [expected in line for line in stream.getvalue().splitlines()] == [True, True]
