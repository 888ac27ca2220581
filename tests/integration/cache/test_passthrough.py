"""How passing on ends: every read, whatever becomes of one of them, or of who waits for the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.manifest import OriginObject
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import CacheClosed
from hotstart_proxy.cache.passthrough import PassThrough
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.telemetry.load import Load
from tests.integration.cache.conftest import Bench
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually

MODEL_BYTES = some_bytes(PIECE_BYTES + 99, seed=4)
KEY = "org/bert/1/model.safetensors"


class LingeringOrigin(FaultOrigin):
    """One whose connections are slow to close."""

    def __init__(self, inner: FaultOrigin) -> None:
        super().__init__(inner)
        self.may_close = asyncio.Event()
        self.closing = 0

    @contextlib.asynccontextmanager
    async def _get(self, item: OriginObject, wanted: ByteRange) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super()._get(item, wanted) as chunks:
            try:
                yield chunks
            finally:
                self.closing += 1
                await self.may_close.wait()


async def passing(bench: Bench, origin: FaultOrigin) -> tuple[PassThrough, VersionBlob]:
    """Return a pass-through, and what can be read by it."""
    manifest = await bench.tree.publish("1", {"model.safetensors": MODEL_BYTES})
    passthrough = PassThrough(TreeOrigin(origin, Layout()), NullObserver(), lambda model, error: None)
    representation = manifest.representation("model.safetensors")
    assert representation is not None
    return passthrough, VersionBlob("org/bert", "1", representation)


async def begun(passthrough: PassThrough, blob: VersionBlob, start: int) -> AsyncGenerator[bytes, None]:
    """Read the first bytes from start on."""
    stream = passthrough.stream(blob, ByteRange(start, len(MODEL_BYTES)), Tier.STANDARD)
    chunk = await anext(stream)
    assert chunk == MODEL_BYTES[start : start + len(chunk)]
    return stream


async def test_who_waits_for_the_end_may_go(bench: Bench) -> None:
    """A caller who is cancelled while reads end is cancelled, and all of them end."""
    origin = LingeringOrigin(bench.origin)
    passthrough, blob = await passing(bench, origin)
    streams = [await begun(passthrough, blob, start) for start in (0, 10)]
    closing = asyncio.create_task(passthrough.close())
    await eventually(lambda: origin.closing == len(streams))
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    origin.may_close.set()
    for stream in streams:
        with pytest.raises(CacheClosed):
            await anext(stream)
    await eventually(lambda: passthrough.load() == Load())


async def test_one_that_failed_oddly_keeps_no_other_open(bench: Bench) -> None:
    """A read that ended with an error that nobody foresaw does not stop the others from being ended."""
    passthrough, blob = await passing(bench, bench.origin)
    slow, quick = await begun(passthrough, blob, 0), await begun(passthrough, blob, 0)

    def odd(key: str, offset: int) -> None:
        raise RuntimeError("an odd one")

    bench.origin.before_chunk = odd
    with pytest.raises(RuntimeError, match="an odd one"):
        async for _ in quick:
            pass
    bench.origin.before_chunk = None
    others = [await begun(passthrough, blob, start) for start in (10, 20)]
    await passthrough.close()
    for stream in others:
        with pytest.raises(CacheClosed):
            async for _ in stream:
                pass
    await slow.aclose()
    assert passthrough.load() == Load()
