"""The proxy as a source, over TCP and a Unix socket, and what it does wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.sources.answers import Refusal
from hotstart.sources.base import Session, SourceError, SourceKind
from hotstart.sources.endpoints import parse_proxy_url
from hotstart.sources.http import Connection
from hotstart.sources.proxy import ProxyClient, ProxySource
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference
from tests.integration.sources.scripted import Answer, ScriptedServer
from tests.integration.sources.versions import (
    DATA,
    EXPECTED,
    FILE,
    MANIFEST,
    ORIGIN_ETAG,
    WANTED,
    opening,
    ranged,
    read_all,
    read_into,
)
from tests.support.deadlines import DEADLINE_SECONDS, wait_until


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScriptedServer]:
    path = tmp_path / "proxy.sock" if request.param == "unix" else None
    with ScriptedServer(ranged, path) as running:
        yield running


@pytest.fixture
def session(server: ScriptedServer) -> Iterator[Session]:
    session = _source(server.url).session()
    yield session
    session.close()


def _source(url: str, token: str | None = None) -> ProxySource:
    return ProxySource(ProxyClient(parse_proxy_url(url), token), MANIFEST)


def _fetch(session: Session, wanted: ByteRange = WANTED) -> bytes:
    return read_all(session.fetch(FILE, FILE.identity(), wanted))


def _failure(session: Session, wanted: ByteRange = WANTED) -> SourceError:
    with pytest.raises(SourceError) as caught:
        _fetch(session, wanted)
    return caught.value


def test_ranges_arrive_bit_for_bit_over_one_connection(server: ScriptedServer, session: Session) -> None:
    """Every range is exactly what was asked for, and the connection is kept from one to the next."""
    for wanted in (ByteRange(0, 1), WANTED, ByteRange(len(DATA) - 1, len(DATA)), ByteRange(0, len(DATA))):
        assert _fetch(session, wanted) == DATA[wanted.start : wanted.stop]
    assert server.connections == 1
    assert server.requests[1].target == "/v1/models/org/bert@7/model.safetensors"
    assert server.requests[1].headers["range"] == "bytes=1000-900000"


def test_kinds_say_where_bytes_come_from(tmp_path: Path) -> None:
    """A Unix socket and loopback are local, another host is not."""
    unix = _source(f"unix:{tmp_path}/p.sock")
    assert (unix.kind, unix.is_local) == (SourceKind.UNIX, True)
    assert _source("http://127.0.0.1:8470").is_local
    assert (_source("http://10.1.2.3:8470").kind, _source("http://10.1.2.3:8470").is_local) == (
        SourceKind.TCP,
        False,
    )


def test_a_stale_connection_is_made_anew_once(server: ScriptedServer, session: Session) -> None:
    """A proxy that closed a kept connection in between is asked again without anyone noticing."""
    server.answer = lambda request: replace(ranged(request), close=True)
    assert _fetch(session) == EXPECTED
    assert _fetch(session) == EXPECTED
    assert server.connections == 2


def test_an_answer_that_says_close_is_the_last_of_its_connection(
    server: ScriptedServer, session: Session
) -> None:
    """Connection: close is respected, and the next request connects again."""
    server.answer = lambda request: _with_headers(ranged(request), {"Connection": "close"})
    assert _fetch(session) == EXPECTED
    assert _fetch(session) == EXPECTED
    assert server.connections == 2


def test_an_unread_body_costs_the_connection_not_the_next_answer(
    server: ScriptedServer, session: Session
) -> None:
    """Closing a body half-read never lets its rest be taken for the next answer."""
    body = session.fetch(FILE, FILE.identity(), WANTED)
    assert body.readinto(memoryview(bytearray(10))) == 10
    body.close()
    assert _fetch(session) == EXPECTED
    assert server.connections == 2


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_body_gives_every_byte_that_came_and_then_fails(
    server: ScriptedServer, session: Session, reset: bool
) -> None:
    """What was read before a cut is good, the error says where it was, and trying again may help."""
    server.answer = lambda request: replace(ranged(request), cut_after=100_000, reset=reset)
    received = bytearray()
    with pytest.raises(SourceError) as caught:
        read_into(received, session.fetch(FILE, FILE.identity(), WANTED))
    assert caught.value.transient
    # A reset throws away what the other side has sent and we have not read yet.
    assert bytes(received) == EXPECTED[: len(received)]
    if not reset:
        assert len(received) == 100_000
        assert "after 100000 of 899001 bytes" in str(caught.value)
    server.answer = ranged
    rest = _fetch(session, ByteRange(WANTED.start + len(received), WANTED.stop))
    assert bytes(received) + rest == EXPECTED


WRONG: dict[str, tuple[Callable[[Answer], Answer], str]] = {
    "another ETag": (lambda a: _with_headers(a, {"ETag": '"another"'}), "other bytes than the manifest's"),
    "no ETag": (lambda a: _with_headers(a, {"ETag": None}), "ETag None"),
    "weak ETag": (lambda a: _with_headers(a, {"ETag": f'W/"{FILE.id}"'}), "other bytes"),
    "shifted": (
        lambda a: _with_headers(a, {"Content-Range": f"bytes 0-899000/{len(DATA)}"}),
        "Content-Range 'bytes 0-899000",
    ),
    "another size": (
        lambda a: _with_headers(a, {"Content-Range": "bytes 1000-900000/900001"}),
        "expected bytes 1000-900000/",
    ),
    "malformed range": (lambda a: _with_headers(a, {"Content-Range": "bytes x"}), "malformed Content-Range"),
    "no range": (lambda a: _with_headers(a, {"Content-Range": None}), "without Content-Range"),
    "the whole": (
        lambda a: Answer(200, {"ETag": a.headers["ETag"]}, DATA),
        "ignores Range",
    ),
    "no length": (lambda a: _with_headers(a, {"Content-Length": None}), "Content-Length unknown"),
    "too short": (lambda a: replace(a, body=a.body[:-1]), "Content-Length 899000"),
    "no HTTP": (lambda a: Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n"), "not an HTTP answer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_not_exactly_what_was_asked_is_refused(
    server: ScriptedServer, session: Session, name: str
) -> None:
    """No wrong byte gets through: any other status, range, length or ETag is an error that names it."""
    spoil, expected = WRONG[name]
    server.answer = lambda request: spoil(ranged(request))
    failure = _failure(session)
    assert expected in failure.reason
    assert not failure.transient
    server.answer = ranged
    assert _fetch(session) == EXPECTED


def test_the_whole_may_come_with_200(server: ScriptedServer, session: Session) -> None:
    """A server that ignores Range is right where the whole was asked for."""
    server.answer = lambda request: Answer(200, {"ETag": f'"{FILE.id}"'}, DATA)
    assert _fetch(session, ByteRange(0, len(DATA))) == DATA


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        *((status, False) for status in (400, 401, 403, 404, 410, 412, 416, 501)),
        *((status, True) for status in (408, 429, 500, 502, 503, 504)),
    ],
)
def test_a_problem_document_tells_its_story(
    server: ScriptedServer, session: Session, status: int, transient: bool
) -> None:
    """Title and detail of a problem reach the error, and its status says whether to try again."""
    problem = (
        b'{"title":"No such thing","detail":"there is org/bert@6, see http://h/x?X-Amz-Signature=s3cret"}'
    )
    server.answer = lambda request: Answer(status, {"Content-Type": "application/problem+json"}, problem)
    failure = _failure(session)
    assert f"HTTP {status}: No such thing: there is org/bert@6" in failure.reason
    assert "s3cret" not in failure.reason
    assert failure.transient is transient
    server.answer = ranged
    assert _fetch(session) == EXPECTED
    assert server.connections == 1


@pytest.mark.parametrize(("code", "transient"), [("origin-changed", False), ("origin-unreachable", True)])
def test_a_replaced_object_is_final(
    server: ScriptedServer, session: Session, code: str, transient: bool
) -> None:
    """A proxy that says that the object was replaced is not asked for it again; other 502s may pass."""
    problem = b'{"title":"Bad Gateway","detail":"so it is","code":"%s"}' % code.encode()
    server.answer = lambda request: Answer(502, {"Content-Type": "application/problem+json"}, problem)
    failure = _failure(session)
    assert isinstance(failure, Refusal)
    assert (failure.code, failure.transient) == (code, transient)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("99999999", 3600.0), ("soon", None), ("-1", None)]
)
def test_retry_after_is_passed_on(
    server: ScriptedServer, session: Session, value: str, seconds: float | None
) -> None:
    """Retry-After in seconds is an attribute of the error, bounded; anything else is left aside."""
    server.answer = lambda request: Answer(429, {"Retry-After": value})
    assert _failure(session).retry_after_seconds == seconds


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"title":7}', b"[" * 10_000, b"x" * 100_000, b"\xff"])
def test_an_error_that_explains_nothing_is_still_an_error(
    server: ScriptedServer, session: Session, body: bytes
) -> None:
    """Whatever an error's body holds, the status is reported."""
    server.answer = lambda request: Answer(503, {"Content-Type": "application/problem+json"}, body)
    assert _failure(session).reason == "HTTP 503"


def test_a_redirect_is_followed_without_token_and_validators(server: ScriptedServer) -> None:
    """A 307 leads to the origin once, with the Range alone, and its answer is pinned by the origin's ETag."""
    with ScriptedServer(lambda request: ranged(request, ORIGIN_ETAG)) as origin:
        location = f"{origin.url}/bucket/key?X-Amz-Signature=s3cret"
        server.answer = lambda request: Answer(307, {"Location": location}, b"see there")
        session = _source(server.url, token="t0ken").session()
        assert _fetch(session) == EXPECTED
        assert _fetch(session) == EXPECTED
        session.close()
        assert (server.connections, origin.connections) == (1, 1)
        assert server.requests[0].headers["authorization"] == "Bearer t0ken"
        assert origin.requests[0].target == "/bucket/key?X-Amz-Signature=s3cret"
        assert origin.requests[0].headers["range"] == "bytes=1000-900000"
        assert origin.requests[0].headers.keys().isdisjoint(("authorization", "if-match", "if-range"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(307, {"Location": "http://127.0.0.1:1/?X-Amz-Signature=s3cret"}), "HTTP 307"),
        (Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>"), "HTTP 403: AccessDenied"),
        (Answer(206, {"ETag": '"another"'}, b""), "other bytes than the manifest's"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_an_error_without_its_query(
    server: ScriptedServer, answer: Answer, expected: str
) -> None:
    """One hop and no more; the signed part of a URL stays out of errors."""
    with ScriptedServer(lambda request: answer) as origin:
        location = f"{origin.url}/bucket/key?X-Amz-Signature=s3cret"
        server.answer = lambda request: Answer(307, {"Location": location})
        session = _source(server.url).session()
        failure = _failure(session)
        session.close()
    assert expected in failure.reason
    assert "s3cret" not in str(failure)
    assert origin.url in failure.source


@pytest.mark.parametrize(
    "location", ["", "ftp://h/x?s3cret", "http://u:p@h/x?s3cret", "file:///etc/x?s3cret"]
)
def test_a_redirect_to_what_is_no_web_address_is_refused(
    server: ScriptedServer, session: Session, location: str
) -> None:
    """Only http and https are followed."""
    server.answer = lambda request: Answer(307, {"Location": location})
    failure = _failure(session)
    assert not failure.transient
    assert "s3cret" not in str(failure)


def test_closing_from_another_thread_ends_a_read_that_waits(server: ScriptedServer, session: Session) -> None:
    """close() wakes a reader that a silent proxy keeps waiting, and the error is not worth a retry."""
    server.answer = lambda request: replace(ranged(request), hang_after=1000)
    body = session.fetch(FILE, FILE.identity(), WANTED)
    failures: list[SourceError] = []
    received = 0

    def read() -> None:
        nonlocal received
        buffer = memoryview(bytearray(WANTED.stop))
        try:
            while True:
                received += body.readinto(buffer[received:])
        except SourceError as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until("the first bytes", lambda: received == 1000)
    session.close()
    reader.join(DEADLINE_SECONDS)
    assert not reader.is_alive()
    assert "from our side" in failures[0].reason
    assert not failures[0].transient
    body.close()
    with pytest.raises(SourceError, match="from our side"):
        session.fetch(FILE, FILE.identity(), WANTED)


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    """A refused connection and an absent socket are errors that no retry helps."""
    with ScriptedServer(ranged) as gone:
        pass
    for url, expected in ((gone.url, "nobody listens"), (f"unix:{tmp_path}/none.sock", "no such socket")):
        failure = _failure(_source(url).session())
        assert expected in failure.reason
        assert url in failure.source
        assert not failure.transient


def test_open_is_one_round_trip(server: ScriptedServer) -> None:
    """Opening sends the reference without its file, and gives manifest, URLs and what is cached."""
    server.answer = lambda request: Answer(200, {}, opening({"model.safetensors": "http://h/x?sig"}))
    client = ProxyClient(parse_proxy_url(server.url), "t0ken")
    found = client.open(Reference("org/bert", "prod", "model.safetensors"))
    assert found.manifest == MANIFEST
    assert found.fallback is not None
    assert found.cached == {"model.safetensors": len(DATA)}
    assert [request.target for request in server.requests] == ["/v1/open/org/bert@prod"]
    assert server.requests[0].headers["authorization"] == "Bearer t0ken"


def test_the_tier_goes_with_every_request(server: ScriptedServer) -> None:
    """Opening says which tier it is of, and so does every range; without one nothing is said."""
    server.answer = lambda request: Answer(200, {}, opening())
    for tier in ("batch", None):
        client = ProxyClient(parse_proxy_url(server.url), None, tier)
        client.open(Reference("org/bert"))
        connection = client.connection()
        client.request_range(connection, "/x", ByteRange(0, 1), "reading").discard()
        connection.drop()
    tiers = [request.headers.get("x-latency-tier") for request in server.requests]
    assert tiers == ["batch", "batch", None, None]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 5000, opening()[:-1]])
def test_an_answer_to_open_that_is_none_is_one_error(
    server: ScriptedServer, body: bytes, chunked: bool
) -> None:
    """Whatever comes instead of an opening is a SourceError."""
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"} if chunked else {}
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked and body else body
    server.answer = lambda request: Answer(200, headers, data, close=True)
    with pytest.raises(SourceError, match=re.escape(f"proxy {server.url}: opening org/bert")):
        ProxyClient(parse_proxy_url(server.url), None).open(Reference("org/bert"))


def test_open_of_another_model_is_refused(server: ScriptedServer) -> None:
    """A proxy that answers with another model than was asked for is not believed."""
    server.answer = lambda request: Answer(200, {}, opening())
    with pytest.raises(SourceError, match="answered with org/bert@7"):
        ProxyClient(parse_proxy_url(server.url), None).open(Reference("org/other"))


def _with_headers(answer: Answer, headers: dict[str, str | None]) -> Answer:
    return replace(answer, headers={**answer.headers, **headers})


def test_silence_is_an_error_worth_a_retry(server: ScriptedServer) -> None:
    """A peer that says nothing more, in the head or in the body, is given up after the idle time."""
    connection = Connection(parse_proxy_url(server.url), "proxy", idle_seconds=0.2)
    server.answer = lambda request: replace(ranged(request), hang_after=1000)
    response = connection.request("GET", "/", {}, doing="reading")
    received = bytearray()
    with pytest.raises(SourceError, match=r"nothing arrived for 0\.2 s") as caught:
        read_into(received, response)
    assert (caught.value.transient, len(received)) == (True, 1000)
    server.answer = lambda request: Answer(raw=b"HTTP/1.1 200 OK\r\n", hang_after=0)
    with pytest.raises(SourceError, match=r"nothing arrived for 0\.2 s"):
        connection.request("GET", "/", {}, doing="reading")
    connection.close()
