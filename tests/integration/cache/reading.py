"""Reading through a cache as its callers do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from hotstart.wire.errors import HotstartError
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from hotstart_proxy.cache.answers import Body, BodySource, Resolved
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.stores.base import FileSlice
from tests.support.deadlines import DEADLINE_SECONDS, POLL_SECONDS

__all__ = ["body_bytes", "eventually", "open_body", "part_bytes", "read", "read_to_error", "resolve"]


async def eventually(look: Callable[[], object]) -> None:
    """Wait until look gives something true."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not look():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(POLL_SECONDS)


def part_bytes(part: FileSlice | bytes) -> bytes:
    """Return the bytes of one part, a slice's through its descriptor."""
    if isinstance(part, bytes):
        return part
    return os.pread(part.descriptor, part.length, part.offset)


async def body_bytes(body: Body) -> bytes:
    """Read a body to its end."""
    data = bytearray()
    async for part in body.parts():
        data += part_bytes(part)
    return bytes(data)


async def read_to_error(body: Body, each: Callable[[], None] | None = None) -> tuple[bytes, HotstartError]:
    """Read a body that must fail, and close it; return what came before the error, and the error.

    Args:
        body: closed here.
        each: called after every part.
    """
    data = bytearray()
    try:
        async for part in body.parts():
            data += part_bytes(part)
            if each is not None:
                each()
    except HotstartError as error:
        return bytes(data), error
    finally:
        await body.close()
    raise AssertionError(f"{len(data)} bytes came, and no error")


async def resolve(cache: Cache, text: str) -> Resolved:
    """Resolve a reference."""
    return await cache.resolve(parse_reference(text))


async def open_body(
    cache: Cache, text: str, wanted: ByteRange | None = None, tier: Tier = Tier.STANDARD
) -> Body:
    """Begin to read the file that a reference names; the caller closes the body."""
    reference = parse_reference(text)
    resolved = await cache.resolve(reference)
    assert reference.file is not None
    representation = resolved.manifest.representation(reference.file)
    assert representation is not None
    if wanted is None:
        wanted = ByteRange(0, representation.size)
    body = await cache.read(resolved, representation, wanted, may_redirect=False, tier=tier)
    assert isinstance(body, Body)
    return body


async def read(
    cache: Cache, text: str, wanted: ByteRange | None = None, tier: Tier = Tier.STANDARD
) -> tuple[bytes, BodySource]:
    """Read the file that a reference names; return its bytes and where they came from in the end."""
    body = await open_body(cache, text, wanted, tier)
    try:
        data = await body_bytes(body)
        assert len(data) == body.length
        return data, body.source
    finally:
        await body.close()
