"""What an S3 server can do wrong, played by a scripted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from hotstart.sources.base import SourceError
from hotstart.sources.origin import Origin
from hotstart.wire.digests import etag
from tests.integration.sources.scripted import Answer, Request, ScriptedServer
from tests.integration.sources.trees import Tree
from tests.integration.sources.versions import EXPECTED, FILE, ORIGIN_ETAG, WANTED, ranged, read_all

LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
CONTENTS = (
    "<Contents><Key>{}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;e&quot;</ETag><Size>7</Size></Contents>"
)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda request: Answer()) as running:
        yield running


@pytest.fixture
def origin(server: ScriptedServer) -> Origin:
    variables = {
        "AWS_ACCESS_KEY_ID": "KEY",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_SESSION_TOKEN": "t0ken",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": "eu-west-1",
    }
    return Tree("s3://bucket/p", variables).origin()


def _fetch(origin: Origin) -> bytes:
    session = origin.session()
    try:
        return read_all(session.fetch(FILE, FILE.identity(), WANTED))
    finally:
        session.close()


def _pages(pages: Sequence[str]) -> Callable[[Request], Answer]:
    remaining = list(pages)
    return lambda request: Answer(200, {}, LISTING.format(remaining.pop(0)).encode())


def test_a_request_is_signed_and_pinned(server: ScriptedServer, origin: Origin) -> None:
    """A range is asked for with the manifest's ETag; range, condition and session token are all signed."""
    server.answer = lambda request: ranged(request, ORIGIN_ETAG)
    assert _fetch(origin) == EXPECTED
    headers = server.requests[0].headers
    assert server.requests[0].target == "/bucket/p/org/bert/7/model.safetensors"
    assert (headers["range"], headers["if-match"]) == ("bytes=1000-900000", ORIGIN_ETAG)
    assert headers["x-amz-security-token"] == "t0ken"
    names = "host;if-match;range;x-amz-content-sha256;x-amz-date;x-amz-security-token"
    assert f"SignedHeaders={names}," in headers["authorization"]
    assert "/eu-west-1/s3/aws4_request" in headers["authorization"]


def test_another_object_under_the_key_is_refused(server: ScriptedServer, origin: Origin) -> None:
    """A server that ignores If-Match is caught by the ETag of its answer."""
    server.answer = lambda request: ranged(request, etag(FILE.id))
    with pytest.raises(SourceError, match="other bytes than the manifest's"):
        _fetch(origin)


@pytest.mark.parametrize(
    ("answer", "expected", "transient"),
    [
        (Answer(503, {}, b"<Error><Code>SlowDown</Code></Error>"), "HTTP 503: SlowDown", True),
        (Answer(500, {}, b"<Error><Code>InternalError</Code></Error>"), "HTTP 500: InternalError", True),
        (Answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"), "no longer the one", False),
        (Answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>"), "NoSuchKey", False),
        (
            Answer(
                400,
                {"x-amz-bucket-region": "eu-north-1"},
                b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>",
            ),
            "the bucket is in eu-north-1: set AWS_REGION to it",
            False,
        ),
    ],
)
def test_refusals(
    server: ScriptedServer, origin: Origin, answer: Answer, expected: str, transient: bool
) -> None:
    """S3's word for what is wrong is passed on, with what can be done about it."""
    server.answer = lambda request: answer
    with pytest.raises(SourceError, match=expected) as caught:
        _fetch(origin)
    assert caught.value.transient is transient


def test_a_redirect_to_another_region_says_which(server: ScriptedServer, origin: Origin) -> None:
    """AWS's 301 for a bucket elsewhere is not followed but explained, for listings too."""
    server.answer = lambda request: Answer(301, {"x-amz-bucket-region": "eu-north-1"})
    with origin.reader("looking") as reader, pytest.raises(SourceError, match="set AWS_REGION"):
        reader.listing("", recursive=True)


def test_credentials_that_expired_are_asked_for_once_more(server: ScriptedServer, origin: Origin) -> None:
    """Where no fresher ones are to be had, S3's refusal is the error, after one request."""
    server.answer = lambda request: Answer(400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
    with pytest.raises(SourceError, match="ExpiredToken"):
        _fetch(origin)
    assert len(server.requests) == 1


def test_a_listing_in_pages(server: ScriptedServer, origin: Origin) -> None:
    """Pages are followed by their tokens; escaped keys are decoded, foreign ones left out, all sorted."""
    server.answer = _pages(
        [
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>a/b+c=</NextContinuationToken>"
            + CONTENTS.format("p/z+%C3%BC%2B")
            + CONTENTS.format("q/foreign"),
            "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            + CONTENTS.format("p/a")
            + "<CommonPrefixes><Prefix>p/folder/</Prefix></CommonPrefixes>",
        ]
    )
    with origin.reader("looking") as reader:
        found = reader.listing("", recursive=False)
    assert [(item.key, item.size, item.etag) for item in found.objects] == [
        ("a", 7, '"e"'),
        ("z ü+", 7, '"e"'),
    ]
    assert found.objects[0].last_modified == 1_767_323_045_000
    assert found.folders == ("folder/",)
    targets = [request.target for request in server.requests]
    assert targets[0] == "/bucket?delimiter=%2F&encoding-type=url&list-type=2&prefix=p%2F"
    assert targets[1] == (
        "/bucket?continuation-token=a%2Fb%2Bc%3D&delimiter=%2F&encoding-type=url&list-type=2&prefix=p%2F"
    )


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><ListBucketResult><Name>&i;</Name></ListBucketResult>"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "not XML"),
        ("<ListBucketResult>", "not XML"),
        ("<Other/>", "is a Other"),
        (
            LISTING.format("<Contents/>").replace("<Contents/>", CONTENTS.format("p/a").replace("7", "x")),
            "read",
        ),
        (LISTING.format(CONTENTS.format("p/a").replace("2026", "26")), "expected RFC 3339"),
        (LISTING.format("<IsTruncated>true</IsTruncated>"), "does not end"),
        (BOMB, "not XML"),
        ("x" * 9_000_000, "expected at most"),
    ],
)
def test_a_listing_that_is_none(server: ScriptedServer, origin: Origin, body: str, expected: str) -> None:
    """Whatever comes instead of a listing is one error, and takes no more memory than it warrants."""
    server.answer = lambda request: Answer(200, {}, body.encode())
    with origin.reader("looking") as reader, pytest.raises(SourceError, match=expected):
        reader.listing("", recursive=True)
