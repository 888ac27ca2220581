"""What readers get when the origin, the store or the bytes are at fault."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.stores.base import StoreError
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.system import System
from tests.conformance.stores.disk_steps import Steps
from tests.integration.cache.conftest import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, read, resolve
from tests.support.deadlines import DEADLINE_SECONDS

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 777, seed=1)
FILES = {"model.safetensors": MODEL_BYTES}
FILE = "org/bert@7/model.safetensors"
KEY = "org/bert/7/model.safetensors"


async def test_damage_at_rest_is_not_resumed(bench: Bench) -> None:
    """A piece of a partial fill that changed while no process ran is fetched again, and only it."""
    manifest = await bench.tree.publish("7", FILES)
    async with bench.cache() as cache:
        await read(cache, FILE, ByteRange(0, 2 * PIECE_BYTES))
    part = bench.store_root / "fills" / f"{manifest.files[0].id}.part"
    with part.open("r+b") as file:
        file.seek(PIECE_BYTES + 9)
        file.write(bytes([MODEL_BYTES[PIECE_BYTES + 9] ^ 1]))
    async with bench.cache() as cache:
        assert (await read(cache, FILE))[0] == MODEL_BYTES
    assert bench.origin.given[KEY] == len(MODEL_BYTES) + PIECE_BYTES


async def test_a_commit_that_fails(bench: Bench) -> None:
    """When the commit fails the readers have had their bytes, nothing is visible, and the next is served."""
    manifest = await bench.tree.publish("7", FILES)
    content_id = manifest.files[0].id
    in_the_way = bench.blob(content_id).parent
    bench.origin.before_chunk = lambda key, offset: in_the_way.touch()
    async with bench.cache() as cache:
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: bench.events.outcomes)
        assert bench.events.outcomes == ["store"]
        assert cache.usage().used_bytes == 0
        assert not list(bench.store_root.glob("fills/*"))
        in_the_way.unlink()
        bench.origin.before_chunk = None
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)


async def test_an_error_in_what_is_fetched_ahead(bench: Bench) -> None:
    """Readers whose own bytes arrive do not fail with what nobody has asked for yet."""
    data = some_bytes(24 * PIECE_BYTES, seed=2)
    await bench.tree.publish("7", {"model.safetensors": data})
    asked = 8 * PIECE_BYTES
    let_go = bench.origin.hold(KEY, ByteRange(0, asked))
    bench.origin.cuts = [(KEY, asked + piece * PIECE_BYTES) for piece in range(16)]
    async with bench.cache() as cache:
        ranges = [ByteRange(start, start + 2 * PIECE_BYTES) for start in range(0, asked, 2 * PIECE_BYTES)]
        reading = [asyncio.create_task(read(cache, FILE, wanted)) for wanted in ranges]
        await eventually(lambda: len(bench.origin.cuts) < 16)
        let_go.set()
        for wanted, (found, source) in zip(ranges, await asyncio.gather(*reading), strict=True):
            assert (found == data[wanted.start : wanted.stop], source) == (True, BodySource.FILL)
        bench.origin.cuts.clear()
        assert await read(cache, FILE) == (data, BodySource.FILL)


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """Put back how large files may be."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_size_limit")
async def test_a_store_that_fails_mid_fill(bench: Bench) -> None:
    """When a write fails, every reader gets the rest from the origin, from the byte it is at."""
    await bench.tree.publish("7", FILES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def break_the_disk(key: str, offset: int) -> None:
        if offset >= 2 * PIECE_BYTES:
            resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE_BYTES, before[1]))

    bench.origin.before_chunk = break_the_disk
    async with bench.cache(CacheSettings(fill_connections=1)) as cache:
        answers = await asyncio.gather(*(read(cache, FILE) for _ in range(4)))
        assert answers == [(MODEL_BYTES, BodySource.PASSED_ON)] * 4
        assert bench.events.outcomes == ["store"]
        assert any("the store fails" in reason for reason in cache.state().degraded)
        assert cache.state().can_serve
        assert cache.usage().used_bytes == 0
        bench.origin.before_chunk = None
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (await read(cache, FILE))[1] is BodySource.FILL
        await eventually(lambda: len(bench.events.outcomes) == 2)
        assert cache.state().degraded == ()


async def test_a_store_that_cannot_reserve(bench: Bench) -> None:
    """When a fill cannot begin, readers are passed through."""
    await bench.tree.publish("7", FILES)
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/bert@7")
        # Until nothing is being written any more.
        await eventually(lambda: len(list(bench.store_root.glob("models/org/bert/**/*.json"))) == 2)
        fills = bench.store_root / "fills"
        fills.rmdir()
        fills.write_bytes(b"in the way")
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.PASSED_ON)
        with pytest.raises(StoreError):
            await cache.warm(resolved)


async def test_a_blob_of_the_wrong_size_heals(bench: Bench) -> None:
    """A blob that is not as long as its manifest says is removed and filled again."""
    manifest = await bench.tree.publish("7", FILES)
    async with bench.cache() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    blob = bench.blob(manifest.files[0].id)
    blob.chmod(0o644)
    blob.write_bytes(MODEL_BYTES[:-1])
    async with bench.cache() as cache:
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: len(bench.events.outcomes) == 2)
        assert bench.events.heals == 1
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.HIT)


@contextlib.contextmanager
def names_held(bench: Bench) -> Iterator[None]:
    """Keep every process from changing names in the store."""
    descriptor = os.open(bench.store_root / "fills", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def test_an_eviction_that_is_broken_off(bench: Bench) -> None:
    """An operator who goes away while a fill is discarded harms nobody: it ends, and a new one begins."""
    manifest = await bench.tree.publish("7", FILES)
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/bert@7")
        await eventually(lambda: len(list(bench.store_root.glob("models/org/bert/**/*.json"))) == 2)
        await read(cache, FILE, ByteRange(0, 2 * PIECE_BYTES))
        await eventually(lambda: cache.load().fills == 0)
        before = len(os.listdir("/proc/self/fd"))
        with names_held(bench):
            evicting = asyncio.create_task(cache.evict(resolved))
            await asyncio.sleep(0.1)
            assert not evicting.done()
            reading = asyncio.create_task(read(cache, FILE))
            await asyncio.sleep(0.1)
            evicting.cancel()
            await asyncio.wait([evicting])
            assert evicting.cancelled()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await reading == (MODEL_BYTES, BodySource.FILL)
            await cache.warm(resolved)
            assert await read(cache, FILE) == (MODEL_BYTES, BodySource.HIT)
        assert bench.events.outcomes == ["closed", "complete"]
        assert cache.usage().used_bytes == len(MODEL_BYTES)
        assert len(os.listdir("/proc/self/fd")) <= before - 2
    assert bench.origin.given[KEY] == len(MODEL_BYTES) + 2 * PIECE_BYTES
    assert bench.blob(manifest.files[0].id).exists()


async def test_a_commit_with_an_error_that_nobody_foresaw(bench: Bench) -> None:
    """Whatever a commit raises, whoever waits for the fill is told, and the next one begins."""
    manifest = await bench.tree.publish("7", FILES)
    steps = Steps(lambda *_: None)

    def odd(system: System, name: str, arguments: tuple[object, ...]) -> None:
        if name == "rename" and manifest.files[0].id in str(arguments[1]):
            raise RuntimeError("an odd one")

    async with bench.cache(opening=DiskStore(bench.store_root, None, steps)) as cache:
        steps.before = odd
        with pytest.raises(StoreError, match="an odd one") as caught:
            await cache.warm(await resolve(cache, "org/bert@7"))
        assert isinstance(caught.value.__cause__, RuntimeError)
        steps.before = lambda *_: None
        assert bench.events.outcomes == ["store"]
        assert cache.usage().used_bytes == 0
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: bench.events.outcomes == ["store", "complete"])
