"""Pre-signed URLs: expiry, refreshing once, and advice; the fallback manifest that carries them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.sources.base import SourceError, SourceKind
from hotstart.sources.endpoints import parse_proxy_url
from hotstart.sources.fallback import fallback_source, read_fallback
from hotstart.sources.presigned import PresignedSource
from hotstart.sources.proxy import ProxyClient
from hotstart.wire.fallback import FallbackManifest
from tests.integration.sources.scripted import Answer, Request, ScriptedServer
from tests.integration.sources.versions import (
    EXPECTED,
    FILE,
    MANIFEST,
    ORIGIN_ETAG,
    PATH,
    WANTED,
    make_file,
    opening,
    ranged,
    read_all,
    read_into,
)

DENIED = Answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")


class _Origin:
    """Takes URLs of the generations that are valid."""

    def __init__(self) -> None:
        self.valid = {"1"}

    def __call__(self, request: Request) -> Answer:
        generation = request.target.rpartition("=")[2]
        return ranged(request, ORIGIN_ETAG) if generation in self.valid else DENIED


@pytest.fixture
def rules() -> _Origin:
    return _Origin()


@pytest.fixture
def origin(rules: _Origin) -> Iterator[ScriptedServer]:
    with ScriptedServer(rules) as running:
        yield running


def _urls(server: ScriptedServer, generation: str) -> Mapping[str, str]:
    return {PATH: f"{server.url}/bucket/{PATH}?X-Amz-Signature=s3cret&generation={generation}"}


def _fallback(urls: Mapping[str, str]) -> FallbackManifest:
    return FallbackManifest(
        model=MANIFEST.model,
        version=MANIFEST.version,
        manifest=MANIFEST,
        manifest_bytes=MANIFEST.dump(),
        urls=urls,
        signed_at=1_700_000_000_000,
        session_ends_at=1_700_000_900_000,
        expires_at=1_700_000_900_000,
        names=("latest", "prod"),
    )


def _fetch(source: PresignedSource) -> bytes:
    session = source.session()
    try:
        return read_all(session.fetch(FILE, FILE.identity(), WANTED))
    finally:
        session.close()


def _failure(source: PresignedSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        _fetch(source)
    assert "s3cret" not in f"{caught.value} {caught.value!r} {source!r} {source.name}"
    return caught.value


def test_ranges_come_straight_from_the_origin(origin: ScriptedServer) -> None:
    """A URL is sent as it was signed, with the Range and the manifest's ETag, and nothing of ours."""
    source = fallback_source("/f.json", _fallback(_urls(origin, "1")), None)
    assert source.kind is SourceKind.PRESIGNED
    assert _fetch(source) == EXPECTED
    request = origin.requests[0]
    assert request.target == f"/bucket/{PATH}?X-Amz-Signature=s3cret&generation=1"
    assert (request.headers["range"], request.headers["if-match"]) == ("bytes=1000-900000", ORIGIN_ETAG)
    assert "authorization" not in request.headers


def test_has_only_what_was_signed(origin: ScriptedServer) -> None:
    """A representation without a URL is somebody else's to serve."""
    source = fallback_source("/f.json", _fallback(_urls(origin, "1")), None)
    other = make_file("other.bin")
    assert source.has(FILE.identity())
    assert not source.has(other.identity())
    session = source.session()
    with pytest.raises(SourceError, match=r"no URL of it was signed"):
        session.fetch(other, other.identity(), WANTED)


def test_expired_urls_without_a_proxy_give_advice(origin: ScriptedServer) -> None:
    """The error tells the manifest's age, when its session ended, and which command makes a new one."""
    failure = _failure(fallback_source("/f.json", _fallback(_urls(origin, "0")), None))
    assert "HTTP 403: AccessDenied: Request has expired" in failure.reason
    assert re.search(r"is \d+\.\d hours old \(signed 2023-11-14T22:13:20.000Z; the session", failure.reason)
    assert "ends 2023-11-14T22:28:20.000Z" in failure.reason
    assert "hotstart presign org/bert@7" in failure.reason
    assert not failure.transient
    assert len(origin.requests) == 1


def test_expired_urls_are_replaced_by_the_proxy(origin: ScriptedServer, rules: _Origin) -> None:
    """Where a proxy answers, refused URLs are exchanged for fresh ones of the very version."""
    generations = iter("123")
    with ScriptedServer(lambda request: Answer(200, {}, opening(_urls(origin, next(generations))))) as proxy:
        client = ProxyClient(parse_proxy_url(proxy.url), None)
        source = fallback_source("/f.json", _fallback(_urls(origin, "0")), client)
        assert _fetch(source) == EXPECTED
        assert _fetch(source) == EXPECTED
        assert [request.target for request in proxy.requests] == ["/v1/open/org/bert@7"]
        # An hour later these have expired too; they did work, so asking again is no loop.
        rules.valid = {"2"}
        assert _fetch(source) == EXPECTED
        assert len(proxy.requests) == 2
        assert len(origin.requests) == 5


def test_fresh_urls_that_are_refused_end_it(origin: ScriptedServer) -> None:
    """A 403 on fresh URLs is final: there is no loop, also not for the next worker."""
    with ScriptedServer(lambda request: Answer(200, {}, opening(_urls(origin, "0")))) as proxy:
        client = ProxyClient(parse_proxy_url(proxy.url), None)
        source = fallback_source("/f.json", _fallback(_urls(origin, "0")), client)
        assert "fresh URLs are refused too" in _failure(source).reason
        assert "hotstart presign" in _failure(source).reason
        assert len(proxy.requests) == 1
        assert len(origin.requests) == 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Answer(503), "HTTP 503"), (Answer(200, {}, opening()), "it gave no URLs")],
)
def test_a_proxy_that_cannot_refresh_is_named(origin: ScriptedServer, answer: Answer, expected: str) -> None:
    """Both refusals are told: the origin's, and why there are no fresh URLs."""
    with ScriptedServer(lambda request: answer) as proxy:
        client = ProxyClient(parse_proxy_url(proxy.url), None)
        failure = _failure(fallback_source("/f.json", _fallback(_urls(origin, "0")), client))
    assert "HTTP 403" in failure.reason
    assert expected in failure.reason
    assert proxy.url in failure.reason


def test_other_failures_are_not_taken_for_expiry(origin: ScriptedServer) -> None:
    """A slow-down is transient, a replaced object is final, and neither asks for URLs."""
    source = fallback_source("/f.json", _fallback(_urls(origin, "1")), None)
    origin.answer = lambda request: Answer(503, {"Retry-After": "2"})
    failure = _failure(source)
    assert (failure.transient, failure.retry_after_seconds) == (True, 2)
    origin.answer = lambda request: Answer(412)
    assert "no longer the one in the manifest" in _failure(source).reason
    origin.answer = lambda request: ranged(request, '"another"')
    assert "other bytes" in _failure(source).reason


@pytest.mark.parametrize("url", ["ftp://h/s3cret", "http://u:s3cret@h/", "http://h h/?s3cret", "no url"])
def test_a_url_that_is_none_is_an_error(url: str) -> None:
    """A malformed URL is never quoted."""
    source = PresignedSource("urls", {PATH: url}, refresh=None, advice=str)
    with pytest.raises(SourceError) as caught:
        _fetch(source)
    assert "u:s3cret" not in str(caught.value)
    assert "?s3cret" not in str(caught.value)


def test_a_fallback_manifest_from_a_file_and_a_server(tmp_path: Path) -> None:
    """HOTSTART_FALLBACK is a path or a URL; a URL's query is secret too."""
    manifest = _fallback({PATH: "http://h/x?s3cret"})
    path = tmp_path / "fallback.json"
    path.write_bytes(manifest.dump())
    assert read_fallback(str(path)) == manifest
    with ScriptedServer(lambda request: Answer(200, {}, manifest.dump())) as server:
        assert read_fallback(f"{server.url}/f.json?s3cret") == manifest
        assert server.requests[0].target == "/f.json?s3cret"


def test_a_fallback_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, refused or malformed, it is one error that names it without its query."""
    path = tmp_path / "fallback.json"
    with pytest.raises(SourceError, match="No such file"):
        read_fallback(str(path))
    path.write_bytes(b"{}")
    with pytest.raises(SourceError, match="malformed fallback manifest"):
        read_fallback(str(path))
    with ScriptedServer(lambda request: DENIED) as server:
        with pytest.raises(SourceError, match="HTTP 403") as caught:
            read_fallback(f"{server.url}/f.json?s3cret")
    assert "s3cret" not in str(caught.value)


def test_a_cut_body_is_resumed_at_the_byte(origin: ScriptedServer) -> None:
    """What came before a cut is good, and the rest is had by another range."""
    source = fallback_source("/f.json", _fallback(_urls(origin, "1")), None)
    origin.answer = lambda request: replace(ranged(request, ORIGIN_ETAG), cut_after=5000)
    session = source.session()
    body = session.fetch(FILE, FILE.identity(), WANTED)
    received = bytearray()
    with pytest.raises(SourceError, match="cut short after 5000"):
        read_into(received, body)
    origin.answer = lambda request: ranged(request, ORIGIN_ETAG)
    rest = session.fetch(FILE, FILE.identity(), replace(WANTED, start=WANTED.start + len(received)))
    assert bytes(received) + read_all(rest) == EXPECTED
    session.close()
