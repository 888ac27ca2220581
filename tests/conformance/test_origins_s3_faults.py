"""S3 servers that break their word: what they send is never taken for what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange, content_range, parse_range
from hotstart_proxy.origins.base import (
    ObjectChanged,
    OriginDenied,
    OriginError,
    OriginUnfit,
    OriginUnreachable,
)
from hotstart_proxy.origins.s3 import S3Origin, S3Settings
from tests.conformance.origins import MIB, noise, read_range
from tests.support.fault_s3 import BUCKET, Act, FaultS3

DATA = noise(3 * MIB)
ETAG = '"the-etag"'
ITEM = OriginObject("a/weights", ETAG)
LAST_MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultS3]:
    """A server that right answers are scripted for."""
    with FaultS3(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.script(right)
        yield server


@pytest.fixture
async def origin(server: FaultS3) -> AsyncIterator[S3Origin]:
    async with S3Origin(BUCKET, "", S3Settings(endpoint=server.url, stall_seconds=1.0)) as origin:
        yield origin


def answer(data: bytes, status: int = 206, sent: str | None = None) -> web.Response:
    headers = {"ETag": ETAG, "Last-Modified": LAST_MODIFIED}
    if sent is not None:
        headers["Content-Range"] = sent
    return web.Response(body=data, status=status, headers=headers)


def asked(request: web.Request) -> ByteRange:
    wanted = parse_range(request.headers.get("Range"), len(DATA))
    assert wanted is not None
    return wanted


async def right(request: web.Request) -> web.StreamResponse:
    wanted = asked(request)
    return answer(DATA[wanted.start : wanted.stop], sent=content_range(wanted, len(DATA)))


async def status_200_with_content_range(request: web.Request) -> web.StreamResponse:
    wanted = asked(request)
    return answer(DATA[wanted.start : wanted.stop], 200, sent=content_range(wanted, len(DATA)))


async def whole(request: web.Request) -> web.StreamResponse:
    return answer(DATA, 200)


async def shifted(request: web.Request) -> web.StreamResponse:
    wanted = asked(request)
    moved = ByteRange(wanted.start + 1, wanted.stop)
    return answer(DATA[moved.start : moved.stop], sent=content_range(moved, len(DATA)))


async def nonsense_range(request: web.Request) -> web.StreamResponse:
    return answer(DATA, sent="bytes 9-1/x")


async def smaller_object(request: web.Request) -> web.StreamResponse:
    return answer(DATA[:10], sent="bytes 0-9/10")


async def other_etag(request: web.Request) -> web.StreamResponse:
    response = await right(request)
    response.headers["ETag"] = '"another"'
    return response


async def no_etag(request: web.Request) -> web.StreamResponse:
    response = await right(request)
    del response.headers["ETag"]
    return response


async def cut_short(request: web.Request) -> web.StreamResponse:
    """Announce everything, send 1 MiB and reset."""
    wanted = asked(request)
    response = web.StreamResponse(
        status=206, headers={"ETag": ETAG, "Content-Range": content_range(wanted, len(DATA))}
    )
    response.content_length = len(wanted)
    await response.prepare(request)
    await response.write(DATA[wanted.start : wanted.start + MIB])
    assert request.transport is not None
    request.transport.abort()
    return response


async def short_by_announcement(request: web.Request) -> web.StreamResponse:
    """Claim the whole range, and announce and send fewer bytes."""
    wanted = asked(request)
    return answer(DATA[wanted.start : wanted.start + 1000], sent=content_range(wanted, len(DATA)))


async def too_long(request: web.Request) -> web.StreamResponse:
    wanted = asked(request)
    data = DATA[wanted.start : wanted.stop] + b"more"
    return answer(data, sent=content_range(wanted, len(DATA)))


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response(status=500)


def error(status: int, code: str) -> Act:
    async def act(request: web.Request) -> web.StreamResponse:
        text = f"<Error><Code>{code}</Code><Message>said so</Message></Error>"
        return web.Response(
            text="" if request.method == "HEAD" else text, status=status, content_type="application/xml"
        )

    return act


async def all_of_it(origin: S3Origin) -> bytes:
    return await read_range(origin, ITEM, 0, len(DATA))


@pytest.mark.parametrize("act", [right, whole, status_200_with_content_range])
async def test_right_bytes_are_taken(server: FaultS3, origin: S3Origin, act: Act) -> None:
    """A whole object for the whole range, and 200 with a right Content-Range, are right answers."""
    server.script(act)
    assert await all_of_it(origin) == DATA


@pytest.mark.parametrize("act", [whole, shifted, nonsense_range, short_by_announcement, too_long])
async def test_wrong_bytes_are_never_taken(server: FaultS3, origin: S3Origin, act: Act) -> None:
    """An answer that is not the range that was asked for is an error after some attempts."""
    server.script(act)
    with pytest.raises(OriginUnreachable):
        await read_range(origin, ITEM, 1000, 2 * MIB)
    assert len(server.seen) > 1


@pytest.mark.parametrize("act", [other_etag, no_etag, smaller_object, error(412, "PreconditionFailed")])
async def test_another_object_is_never_taken(server: FaultS3, origin: S3Origin, act: Act) -> None:
    """An object with another ETag or size is "changed", at once, whether or not the server minds If-Match."""
    server.script(act)
    with pytest.raises(ObjectChanged):
        await all_of_it(origin)
    assert len(server.seen) == 1


async def test_replaced_between_two_attempts(server: FaultS3, origin: S3Origin) -> None:
    """When the connection breaks and the object has changed meanwhile, the get ends with an error."""
    server.script(cut_short, other_etag)
    with pytest.raises(ObjectChanged):
        await all_of_it(origin)


@pytest.mark.parametrize(
    "act",
    [
        cut_short,
        hangs,
        short_by_announcement,
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(400, "RequestTimeout"),
    ],
)
async def test_passing_faults_are_survived(server: FaultS3, origin: S3Origin, act: Act) -> None:
    """A fault that passes costs another attempt, and every byte arrives once."""
    server.script(act, right)
    assert await all_of_it(origin) == DATA
    assert len(server.seen) == 2


async def test_attempts_count_anew_after_progress(server: FaultS3, origin: S3Origin) -> None:
    """A server that breaks every connection, each after a good piece, still gives the whole."""
    fails = [error(500, "x")] * 3
    server.script(*fails, cut_short, *fails, cut_short, right)
    assert await all_of_it(origin) == DATA
    starts = [seen.wanted.partition("=")[2].partition("-")[0] for seen in server.seen if seen.wanted]
    assert starts == ["0"] * 4 + [starts[4]] * 4 + [starts[8]]
    assert 0 < int(starts[4]) < int(starts[8])


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (error(403, "AccessDenied"), OriginDenied),
        (error(403, "SignatureDoesNotMatch"), OriginDenied),
        (error(400, "ExpiredToken"), OriginDenied),
        (error(500, "InternalError"), OriginUnreachable),
        (error(404, "NoSuchBucket"), OriginUnreachable),
        (error(400, "InvalidArgument"), OriginError),
    ],
)
async def test_errors_have_their_kind(
    server: FaultS3, origin: S3Origin, act: Act, kind: type[OriginError]
) -> None:
    """What an S3 error means is told by the error's class; the answer's words and the cause are kept."""
    server.script(act)
    for call in (
        all_of_it(origin),
        origin.read("a/b"),
        origin.put("a/b", b""),
        origin.list("", recursive=True),
    ):
        with pytest.raises(OriginError, match="said so") as raised:
            await call
        assert isinstance(raised.value, kind)
        assert kind is not OriginError or type(raised.value) is kind
        assert raised.value.__cause__ is not None


async def test_a_document_that_breaks_off_is_read_again(server: FaultS3, origin: S3Origin) -> None:
    """A small object is never taken short either."""

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG, "Last-Modified": LAST_MODIFIED})
        response.content_length = 10
        await response.prepare(request)
        await response.write(b"01234")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def full(request: web.Request) -> web.StreamResponse:
        return answer(b"0123456789", 200)

    server.script(half, full)
    found = await origin.read("a/b")
    assert found is not None
    assert (found.data, found.last_modified) == (b"0123456789", 1_700_000_000_000)


async def test_a_document_that_is_too_large_is_refused(server: FaultS3, origin: S3Origin) -> None:
    """A huge object under a document's key is an error, before its bytes are read into memory."""

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG, "Last-Modified": LAST_MODIFIED})
        response.content_length = 2**40
        await response.prepare(request)
        return response

    server.script(huge)
    with pytest.raises(OriginError, match="at most"):
        await origin.read("a/b")


async def test_a_conflict_is_tried_again(server: FaultS3, origin: S3Origin) -> None:
    """A create-only write that AWS answers with 409, for another one is under way, is sent again."""

    async def written(request: web.Request) -> web.StreamResponse:
        assert request.headers["If-None-Match"] == "*"
        return answer(b"", 200)

    server.script(error(409, "ConditionalRequestConflict"), written)
    info = await origin.put("a/b", b"1", create_only=True)
    assert info.etag == ETAG


async def test_a_lost_swap_is_told(server: FaultS3, origin: S3Origin) -> None:
    """A compare-and-swap that AWS answers with 409 is lost, as with 412."""
    server.script(error(409, "ConditionalRequestConflict"))
    with pytest.raises(ObjectChanged):
        await origin.put("a/b", b"1", if_match=ETAG)
    assert len(server.seen) == 1


async def test_a_server_that_ignores_conditions_is_unfit(server: FaultS3, origin: S3Origin) -> None:
    """An origin that overwrites in spite of If-None-Match is refused for publishing."""

    async def anything_goes(request: web.Request) -> web.StreamResponse:
        return answer(b"", 200)

    server.script(anything_goes)
    with pytest.raises(OriginUnfit, match="If-None-Match"):
        await origin.check_publishable()
