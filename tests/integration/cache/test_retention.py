"""What is kept, what goes, and that nobody is disturbed by it."""

from __future__ import annotations

import fcntl
import os

from hotstart.wire.digests import sha256_id
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.settings import CacheSettings
from tests.integration.cache.conftest import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import body_bytes, eventually, open_body, part_bytes, read, resolve

TOKENIZER = b'{"the same": "in all versions"}'
WEIGHTS_BYTES = 100_000


def weights(version: int) -> bytes:
    return some_bytes(WEIGHTS_BYTES, seed=version)


async def publish(bench: Bench, *versions: int) -> None:
    for version in versions:
        files = {"model.safetensors": weights(version), "tokenizer.json": TOKENIZER}
        await bench.tree.publish(str(version), files)


async def test_blobs_without_a_version_are_collected(bench: Bench) -> None:
    """A blob that no kept version needs is removed by gc, one that another proxy's version needs is not."""
    await publish(bench, 1)
    stray = bench.blob("ab" * 32)
    async with bench.cache() as cache:
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"stray")
        async with bench.cache() as other:
            await other.warm(await resolve(other, "org/bert@1"))
            assert not stray.exists()
        assert await cache.gc() == 0
        assert await read(cache, "org/bert@1/model.safetensors") == (weights(1), BodySource.HIT)


async def test_mapped_blobs_are_passed_over(bench: Bench) -> None:
    """A blob that another process maps is not evicted: the next oldest goes, or else nothing."""
    await publish(bench, 1, 2, 3)
    async with bench.cache(budget_bytes=2 * WEIGHTS_BYTES + 1000) as cache:
        mapped = []
        for version in (1, 2):
            resolved = await resolve(cache, f"org/bert@{version}")
            await cache.warm(resolved)
            blob = resolved.manifest.representation("model.safetensors")
            assert blob is not None
            mapped.append(os.open(bench.blob(blob.id), os.O_RDONLY))
            fcntl.flock(mapped[-1], fcntl.LOCK_SH)
        assert (await read(cache, "org/bert@3/model.safetensors"))[1] is BodySource.PASSED_ON
        os.close(mapped[1])
        assert (await read(cache, "org/bert@3/model.safetensors"))[1] is BodySource.FILL
        assert (await read(cache, "org/bert@1/model.safetensors"))[1] is BodySource.HIT
        os.close(mapped[0])


async def test_evicted_while_being_read(bench: Bench) -> None:
    """A reader of a blob that is evicted reads on to its end."""
    data = some_bytes(2 * PIECE_BYTES)
    await bench.tree.publish("1", {"model.safetensors": data})
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/bert@1")
        await cache.warm(resolved)
        body = await open_body(cache, "org/bert@1/model.safetensors")
        assert await cache.evict(resolved) == len(data)
        assert not bench.blob(resolved.manifest.files[0].id).exists()
        assert cache.usage().used_bytes == len(data)
        assert await body_bytes(body) == data
        await body.close()
        assert cache.usage().used_bytes == 0


async def test_retired_while_being_read(bench: Bench) -> None:
    """Whoever is in the middle of a version that is retired, from the store or its fill, reads to the end."""
    data = some_bytes(3 * PIECE_BYTES)
    await bench.tree.publish("1", {"held": data, "filled": data[::-1]})
    async with bench.cache(CacheSettings(keep_versions=1)) as cache:
        await read(cache, "org/bert@1/held")
        blob = bench.blob(sha256_id(data))
        await eventually(blob.exists)
        held = await open_body(cache, "org/bert@1/held")
        filled = await open_body(cache, "org/bert@1/filled")
        parts = filled.parts()
        got = part_bytes(await anext(parts))
        await bench.tree.publish("2", {"held": b"another"})
        bench.pass_seconds(60)
        await resolve(cache, "org/bert")
        await eventually(lambda: not blob.exists())
        got += b"".join([part_bytes(part) async for part in parts])
        assert (got, filled.source) == (data[::-1], BodySource.FILL)
        assert (await body_bytes(held), held.source) == (data, BodySource.HIT)
        await filled.close()
        await held.close()
        await eventually(lambda: cache.usage().used_bytes == 0)


async def test_old_partial_fills_are_dropped(bench: Bench) -> None:
    """A partial fill that nobody has gone on with for its time to live is dropped at a start."""
    await bench.tree.publish("1", {"model.safetensors": some_bytes(2 * PIECE_BYTES)})
    async with bench.cache() as cache:
        await read(cache, "org/bert@1/model.safetensors", ByteRange(0, 1))
    assert list(bench.store_root.glob("fills/*.part"))
    async with bench.cache() as cache:
        await cache.gc()
        assert cache.usage().used_bytes == 2 * PIECE_BYTES
    async with bench.cache(CacheSettings(partial_ttl_seconds=0)) as cache:
        await eventually(lambda: cache.usage().used_bytes == 0)
    assert not list(bench.store_root.glob("fills/*"))
