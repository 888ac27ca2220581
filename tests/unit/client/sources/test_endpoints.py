"""Endpoints and masked URLs."""

from __future__ import annotations

import pytest

from hotstart.sources.endpoints import (
    Endpoint,
    InvalidUrl,
    mask_queries,
    masked,
    parse_proxy_url,
    parse_url,
)


@pytest.mark.parametrize(
    ("url", "endpoint", "text", "is_local"),
    [
        ("http://h:8470", Endpoint("http", "h", 8470), "http://h:8470", False),
        ("http://h:8470/", Endpoint("http", "h", 8470), "http://h:8470", False),
        ("https://h", Endpoint("https", "h", 443), "https://h", False),
        ("http://127.0.0.1", Endpoint("http", "127.0.0.1", 80), "http://127.0.0.1", True),
        ("http://[::1]:8470", Endpoint("http", "::1", 8470), "http://[::1]:8470", True),
        ("http://LocalHost:1", Endpoint("http", "localhost", 1), "http://localhost:1", True),
        ("unix:/run/h.sock", Endpoint("unix", "localhost", 0, "/run/h.sock"), "unix:/run/h.sock", True),
        ("unix:///run/h.sock", Endpoint("unix", "localhost", 0, "/run/h.sock"), "unix:/run/h.sock", True),
    ],
)
def test_proxies(url: str, endpoint: Endpoint, text: str, is_local: bool) -> None:
    """A proxy's URL says where it listens, and is written back in one way."""
    found = parse_proxy_url(url)
    assert (found, str(found), found.is_local) == (endpoint, text, is_local)


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:8470", "http://", "http://:8470", "http://h:0", "http://h:99999", "http://h:x", "ftp://h"),
        *("http://h/path", "http://h?query", "http://u:p@h", "http://h h", "http://ü", "http://[::1"),
        *("unix:", "unix:relative", "unix:/a\0b", "unix:/" + "x" * 107, "s3://bucket/prefix"),
    ],
)
def test_what_is_no_proxy(url: str) -> None:
    """Anything that cannot be connected to is refused, without showing a password."""
    with pytest.raises(InvalidUrl) as caught:
        parse_proxy_url(url)
    assert "u:p" not in str(caught.value)


def test_targets_keep_their_escapes() -> None:
    """Path and query are sent as they were given: a signature is over these very bytes."""
    endpoint, target = parse_url("https://b.s3.amazonaws.com/a%20b/%C3%BC?X-Amz-Signature=a%2Fb&x=1#part")
    assert (endpoint.authority, target) == ("b.s3.amazonaws.com", "/a%20b/%C3%BC?X-Amz-Signature=a%2Fb&x=1")
    assert parse_url("http://h?x=1")[1] == "/?x=1"


def test_masking() -> None:
    """No query, user or fragment survives, whatever stands around it."""
    assert masked("https://u:p@h/a/b?sig=1#x") == "https://h/a/b"
    assert masked("/a/path") == "/a/path"
    assert mask_queries("see http://h/a?sig=1 or 'http://h/b?x'") == "see http://h/a?… or 'http://h/b?…'"
