"""What is kept, what goes, and that nobody is disturbed by it."""

from __future__ import annotations

import fcntl
import os

import pytest

from hotstart.wire.digests import sha256_id
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource, NotKept
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


async def test_five_of_six_are_kept(bench: Bench) -> None:
    """The sixth version retires the first, whose own blob goes; the tokenizer that all share stays."""
    await publish(bench, 1, 2, 3, 4, 5)
    async with bench.cache() as cache:
        for version in range(1, 6):
            await cache.warm(await resolve(cache, f"org/bert@{version}"))
        first = await resolve(cache, "org/bert@1")
        own = first.manifest.representation("model.safetensors")
        shared = first.manifest.representation("tokenizer.json")
        assert own is not None
        assert shared is not None
        await publish(bench, 6)
        bench.pass_seconds(60)
        await cache.warm(await resolve(cache, "org/bert@latest"))
        assert cache.kept_versions("org/bert") == ("2", "3", "4", "5", "6")
        await eventually(lambda: not bench.blob(own.id).exists())
        assert bench.blob(shared.id).exists()
        assert cache.usage().used_bytes == 5 * WEIGHTS_BYTES + len(TOKENIZER)
        for version in range(2, 7):
            assert await read(cache, f"org/bert@{version}/model.safetensors") == (
                weights(version),
                BodySource.HIT,
            )


async def test_a_retired_version_is_still_served(bench: Bench) -> None:
    """A version that is not kept is passed through, is not kept by being read, and cannot be warmed."""
    await publish(bench, 1, 2, 3, 4, 5, 6)
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/bert@1")
        assert not resolved.kept
        assert await read(cache, "org/bert@1/model.safetensors") == (weights(1), BodySource.PASSED_ON)
        assert cache.usage().used_bytes == 0
        with pytest.raises(NotKept, match="give it an alias"):
            await cache.warm(resolved)


async def test_an_alias_keeps_an_old_version(bench: Bench) -> None:
    """A version that an alias means is kept beside the newest five, until the alias moves on."""
    await publish(bench, 1, 2, 3, 4, 5, 6, 7)
    await bench.tree.alias("prod", "1")
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/bert")
        assert resolved.manifest.version == "1"
        assert resolved.by_alias
        assert resolved.kept
        await cache.warm(resolved)
        await bench.tree.alias("prod", "7")
        bench.pass_seconds(60)
        assert (await resolve(cache, "org/bert")).manifest.version == "7"
        await eventually(lambda: not bench.blob(resolved.manifest.files[0].id).exists())


async def test_retention_after_a_restart(bench: Bench) -> None:
    """What was retired while no proxy ran goes as soon as the next one has seen the index."""
    await publish(bench, 1, 2, 3, 4, 5)
    async with bench.cache() as cache:
        for version in range(1, 6):
            await cache.warm(await resolve(cache, f"org/bert@{version}"))
    await publish(bench, 6)
    async with bench.cache() as cache:
        await resolve(cache, "org/bert")
        await eventually(lambda: cache.usage().used_bytes == 4 * WEIGHTS_BYTES + len(TOKENIZER))
        assert bench.events.evictions == [("retired", WEIGHTS_BYTES)]


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


async def test_the_budget_is_never_exceeded(bench: Bench) -> None:
    """Under the budget the oldest versions yield; whatever is read, the sum stays within."""
    await publish(bench, 1, 2, 3, 4)
    budget = 2 * WEIGHTS_BYTES + 1000
    async with bench.cache(budget_bytes=budget) as cache:
        for version in (1, 2, 3, 4):
            assert (await read(cache, f"org/bert@{version}/model.safetensors"))[0] == weights(version)
            await eventually(lambda: bench.events.outcomes)
            bench.events.outcomes.clear()
            assert cache.usage().used_bytes <= budget
        assert (await read(cache, "org/bert@4/model.safetensors"))[1] is BodySource.HIT
        assert (await read(cache, "org/bert@3/model.safetensors"))[1] is BodySource.HIT
    assert bench.events.evictions == [("budget", WEIGHTS_BYTES)] * 2
    on_disk = sum(path.stat().st_size for path in bench.store_root.glob("blobs/*/*"))
    assert on_disk <= budget


async def test_a_file_larger_than_the_budget(bench: Bench) -> None:
    """What never fits is passed through, evicts nothing, and is said to be so."""
    await bench.tree.publish("1", {"small": b"abc", "large": weights(1)})
    async with bench.cache(budget_bytes=1000) as cache:
        await read(cache, "org/bert@1/small")
        await eventually(lambda: bench.events.outcomes)
        assert await read(cache, "org/bert@1/large") == (weights(1), BodySource.PASSED_ON)
        assert any("full" in reason for reason in cache.state().degraded)
        assert (await read(cache, "org/bert@1/small"))[1] is BodySource.HIT
    assert bench.events.evictions == []


async def test_files_of_one_version_do_not_evict_each_other(bench: Bench) -> None:
    """Where not all files of a version fit, the rest is passed through instead of evicting the first."""
    await bench.tree.publish("1", {"a": weights(1), "b": weights(2)})
    async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
        await read(cache, "org/bert@1/a")
        await eventually(lambda: bench.events.outcomes)
        assert await read(cache, "org/bert@1/b") == (weights(2), BodySource.PASSED_ON)
        assert (await read(cache, "org/bert@1/a"))[1] is BodySource.HIT


async def test_a_lower_budget_after_a_restart(bench: Bench) -> None:
    """A store that is over its new budget is brought under it, oldest version first."""
    await publish(bench, 1, 2, 3)
    async with bench.cache() as cache:
        for version in (1, 2, 3):
            await cache.warm(await resolve(cache, f"org/bert@{version}"))
    async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
        await eventually(lambda: cache.usage().used_bytes <= WEIGHTS_BYTES + 1000)
        assert (await read(cache, "org/bert@3/model.safetensors"))[1] is BodySource.HIT


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


async def test_what_is_open_is_not_evicted_for_space(bench: Bench) -> None:
    """Evicting an open blob would free nothing, so another goes or the reader is passed through."""
    await publish(bench, 1, 2)
    async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
        await cache.warm(await resolve(cache, "org/bert@1"))
        body = await open_body(cache, "org/bert@1/model.safetensors")
        assert body.source is BodySource.HIT
        assert (await read(cache, "org/bert@2/model.safetensors"))[1] is BodySource.PASSED_ON
        await body.close()
        assert (await read(cache, "org/bert@2/model.safetensors"))[1] is BodySource.FILL


async def test_evicting_spares_what_others_need(bench: Bench) -> None:
    """Evicting one version leaves the blobs that it shares with another kept one."""
    await publish(bench, 1, 2)
    async with bench.cache() as cache:
        for version in (1, 2):
            await cache.warm(await resolve(cache, f"org/bert@{version}"))
        assert await cache.evict(await resolve(cache, "org/bert@1")) == WEIGHTS_BYTES
        assert cache.cached(await resolve(cache, "org/bert@1")) == {"tokenizer.json": len(TOKENIZER)}
        assert len(cache.cached(await resolve(cache, "org/bert@2"))) == 2


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
