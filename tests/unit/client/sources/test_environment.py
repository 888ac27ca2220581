"""The client's settings."""

from __future__ import annotations

import pytest

from hotstart.sources.endpoints import Endpoint, InvalidUrl
from hotstart.sources.environment import Environment, InvalidEnvironment, parse_origin_url

FULL = {
    "HOTSTART_PROXY": "unix:/run/hotstart.sock",
    "HOTSTART_TOKEN": "t0ken",
    "HOTSTART_SHARED_DIR": "/var/lib/hotstart",
    "HOTSTART_ORIGIN": "s3://models/some/prefix/",
    "HOTSTART_FALLBACK": "https://h/fallback.json?X-Amz-Signature=s3cret",
    "HOTSTART_TIER": "batch",
    "AWS_REGION": "eu-west-1",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "HOME": "/home/u",
    "OTHER": "x",
}


def test_every_variable() -> None:
    """All six are read; of the others only what the S3 origin needs."""
    found = Environment.from_environ(FULL)
    assert found.proxy == Endpoint("unix", "localhost", 0, "/run/hotstart.sock")
    assert (found.token, found.shared_dir) == ("t0ken", "/var/lib/hotstart")
    assert found.origin is not None
    assert (found.origin.bucket, found.origin.prefix) == ("models", "some/prefix/")
    assert found.fallback == FULL["HOTSTART_FALLBACK"]
    assert found.fallback_name == "https://h/fallback.json"
    assert found.tier == "batch"
    assert found.variables.keys() == {"AWS_REGION", "AWS_SECRET_ACCESS_KEY", "HOME"}


def test_secrets_stay_out_of_the_repr() -> None:
    """An environment can stand in a log line."""
    text = repr(Environment.from_environ(FULL))
    assert "s3cret" not in text
    assert "t0ken" not in text


def test_nothing_set_is_no_error_until_something_is_asked_for() -> None:
    """An empty environment is valid, and asking of it names the variables."""
    found = Environment.from_environ({"HOTSTART_PROXY": ""})
    assert found == Environment()
    with pytest.raises(InvalidEnvironment) as caught:
        found.check_not_empty()
    for name in ("HOTSTART_PROXY", "HOTSTART_FALLBACK", "HOTSTART_ORIGIN"):
        assert name in str(caught.value)


def test_a_shared_directory_alone_opens_nothing() -> None:
    """The volume holds blobs by id; what a reference means is told by others."""
    with pytest.raises(InvalidEnvironment):
        Environment.from_environ({"HOTSTART_SHARED_DIR": "/mnt"}).check_not_empty()


def test_arguments_stand_for_their_variables() -> None:
    """An argument overrides its variable alone; an empty one clears it."""
    found = Environment.from_environ(FULL, proxy="http://h:1", origin="", fallback="", token="")
    assert found.proxy == Endpoint("http", "h", 1)
    assert (found.origin, found.fallback, found.token) == (None, None, None)
    assert found.shared_dir == "/var/lib/hotstart"


def test_all_problems_at_once() -> None:
    """Every variable that is wrong is named in one error, and no secret with it."""
    with pytest.raises(InvalidEnvironment) as caught:
        Environment.from_environ(
            {
                "HOTSTART_PROXY": "host:8470",
                "HOTSTART_TOKEN": "two words s3cret",
                "HOTSTART_SHARED_DIR": "relative",
                "HOTSTART_ORIGIN": "http://proxy:8470",
                "HOTSTART_FALLBACK": "ftp://h/x?s3cret",
                "HOTSTART_TIER": "urgent",
            }
        )
    assert len(caught.value.problems) == 6
    for problem, name in zip(caught.value.problems, FULL, strict=False):
        assert problem.startswith(name)
    assert "set HOTSTART_PROXY" in caught.value.problems[3]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "bucket", "prefix", "directory"),
    [
        ("s3://bucket", "bucket", "", ""),
        ("s3://bucket/", "bucket", "", ""),
        ("s3://my.bucket-1/a/b", "my.bucket-1", "a/b/", ""),
        ("file:///srv/models", "", "", "/srv/models"),
        ("file:///srv/models/", "", "", "/srv/models"),
        ("file://localhost/srv", "", "", "/srv"),
        ("file:///srv/a%20b", "", "", "/srv/a b"),
        ("file:///", "", "", "/"),
    ],
)
def test_origins(url: str, bucket: str, prefix: str, directory: str) -> None:
    """A bucket with or without a prefix, or a directory."""
    found = parse_origin_url(url)
    assert (found.bucket, found.prefix, found.directory) == (bucket, prefix, directory)


@pytest.mark.parametrize(
    "url",
    [
        *("", "bucket", "/srv/models", "s3:bucket", "s3://", "s3://B", "s3://_ab", "s3://bucket/../x"),
        *(
            "s3://bucket/a//b",
            "s3://bucket/a?b",
            "s3://bucket?x",
            "file://",
            "file://relative",
            "file:///a%00b",
            "file:///a/../b",
        ),
        *("gs://bucket", "http://h", "https://h", "unix:/run/x"),
    ],
)
def test_what_is_no_origin(url: str) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(InvalidUrl, match=r"expected|HOTSTART_PROXY"):
        parse_origin_url(url)
