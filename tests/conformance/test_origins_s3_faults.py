"""S3 servers that break their word: what they send is never taken for what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

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

DATA = noise(3 * MIB)
ETAG = '"the-etag"'
ITEM = OriginObject("a/weights", ETAG)
LAST_MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyS3:
    """Answers each request by the next act, and by the last one for ever.

    Attributes:
        acts: what to do; taken off from the front.
        ranges: of every request, as it came.
    """

    def __init__(self) -> None:
        self.acts: list[Act] = [right]
        self.ranges: list[str | None] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        return await act(request)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    faulty = FaultyS3()
    app = web.Application(client_max_size=64 * MIB)
    app.router.add_route("*", "/{path:.*}", faulty.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    faulty.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield faulty
    await runner.cleanup()


@pytest.fixture
async def origin(server: FaultyS3) -> AsyncIterator[S3Origin]:
    async with S3Origin("bucket", "", S3Settings(endpoint=server.url, stall_seconds=1.0)) as origin:
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
async def test_right_bytes_are_taken(server: FaultyS3, origin: S3Origin, act: Act) -> None:
    """A whole object for the whole range, and 200 with a right Content-Range, are right answers."""
    server.acts = [act]
    assert await all_of_it(origin) == DATA


@pytest.mark.parametrize("act", [whole, shifted, nonsense_range, short_by_announcement, too_long])
async def test_wrong_bytes_are_never_taken(server: FaultyS3, origin: S3Origin, act: Act) -> None:
    """An answer that is not the range that was asked for is an error after some attempts."""
    server.acts = [act]
    with pytest.raises(OriginUnreachable):
        await read_range(origin, ITEM, 1000, 2 * MIB)
    assert len(server.ranges) > 1


@pytest.mark.parametrize("act", [other_etag, no_etag, smaller_object, error(412, "PreconditionFailed")])
async def test_another_object_is_never_taken(server: FaultyS3, origin: S3Origin, act: Act) -> None:
    """An object with another ETag or size is "changed", at once, whether or not the server minds If-Match."""
    server.acts = [act]
    with pytest.raises(ObjectChanged):
        await all_of_it(origin)
    assert len(server.ranges) == 1


async def test_replaced_between_two_attempts(server: FaultyS3, origin: S3Origin) -> None:
    """When the connection breaks and the object has changed meanwhile, the get ends with an error."""
    server.acts = [cut_short, other_etag]
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
async def test_passing_faults_are_survived(server: FaultyS3, origin: S3Origin, act: Act) -> None:
    """A fault that passes costs another attempt, and every byte arrives once."""
    server.acts = [act, right]
    assert await all_of_it(origin) == DATA
    assert len(server.ranges) == 2


async def test_attempts_count_anew_after_progress(server: FaultyS3, origin: S3Origin) -> None:
    """A server that breaks every connection, each after a good piece, still gives the whole."""
    server.acts = [error(500, "x")] * 3 + [cut_short] + [error(500, "x")] * 3 + [cut_short, right]
    assert await all_of_it(origin) == DATA
    starts = [value.partition("=")[2].partition("-")[0] for value in server.ranges if value]
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
    server: FaultyS3, origin: S3Origin, act: Act, kind: type[OriginError]
) -> None:
    """What an S3 error means is told by the error's class; the answer's words and the cause are kept."""
    server.acts = [act]
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


async def test_a_document_that_breaks_off_is_read_again(server: FaultyS3, origin: S3Origin) -> None:
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

    server.acts = [half, full]
    found = await origin.read("a/b")
    assert found is not None
    assert (found.data, found.last_modified) == (b"0123456789", 1_700_000_000_000)


async def test_a_document_that_is_too_large_is_refused(server: FaultyS3, origin: S3Origin) -> None:
    """A huge object under a document's key is an error, before its bytes are read into memory."""

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG, "Last-Modified": LAST_MODIFIED})
        response.content_length = 2**40
        await response.prepare(request)
        return response

    server.acts = [huge]
    with pytest.raises(OriginError, match="at most"):
        await origin.read("a/b")


async def test_a_conflict_is_tried_again(server: FaultyS3, origin: S3Origin) -> None:
    """A create-only write that AWS answers with 409, for another one is under way, is sent again."""

    async def written(request: web.Request) -> web.StreamResponse:
        assert request.headers["If-None-Match"] == "*"
        return answer(b"", 200)

    server.acts = [error(409, "ConditionalRequestConflict"), written]
    info = await origin.put("a/b", b"1", create_only=True)
    assert info.etag == ETAG


async def test_a_lost_swap_is_told(server: FaultyS3, origin: S3Origin) -> None:
    """A compare-and-swap that AWS answers with 409 is lost, as with 412."""
    server.acts = [error(409, "ConditionalRequestConflict")]
    with pytest.raises(ObjectChanged):
        await origin.put("a/b", b"1", if_match=ETAG)
    assert len(server.ranges) == 1


async def test_a_server_that_ignores_conditions_is_unfit(server: FaultyS3, origin: S3Origin) -> None:
    """An origin that overwrites in spite of If-None-Match is refused for publishing."""

    async def anything_goes(request: web.Request) -> web.StreamResponse:
        return answer(b"", 200)

    server.acts = [anything_goes]
    with pytest.raises(OriginUnfit, match="If-None-Match"):
        await origin.check_publishable()
