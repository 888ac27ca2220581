"""Several caches on the same stores, as several processes have them: one fill, one budget."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.settings import CacheSettings
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, read, resolve

MODEL_BYTES = some_bytes(5 * PIECE_BYTES + 12345)


FILES = {"model.safetensors": MODEL_BYTES}


MODEL = "org/bert@7/model.safetensors"


KEY = "org/bert/7/model.safetensors"


class SharingCachesSuite:
    """See ``suite.CacheSuite``."""

    async def test_readers_of_all_caches_cost_one_copy(self, bench: Bench) -> None:
        """Readers of four caches on one store get a cold file right, and the origin gives it once."""
        await bench.tree.publish("7", FILES)
        async with AsyncExitStack() as stack:
            caches = [await stack.enter_async_context(bench.cache()) for _ in range(4)]
            starts = [number * 300_000 for number in range(8)]
            answers = await asyncio.gather(
                *(
                    read(cache, MODEL, ByteRange(start, len(MODEL_BYTES)))
                    for cache in caches
                    for start in starts
                )
            )
            assert [data for data, _ in answers] == [MODEL_BYTES[start:] for _ in caches for start in starts]
            await eventually(lambda: bench.events.outcomes == ["complete"] * 4)
            for cache in caches:
                assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.HIT)
                assert cache.usage().used_bytes == len(MODEL_BYTES)
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_a_piece_in_flight_elsewhere_is_waited_for(self, bench: Bench) -> None:
        """What another cache is fetching is not fetched a second time, and comes here when it is written."""
        await bench.tree.publish("7", FILES)
        hold = bench.origin.hold(KEY, ByteRange(0, PIECE_BYTES))
        async with bench.cache() as one, bench.cache() as other:
            first = asyncio.create_task(read(one, MODEL, ByteRange(0, 10)))
            await eventually(lambda: bench.origin.gets[KEY])
            second = asyncio.create_task(read(other, MODEL, ByteRange(5, 20)))
            await asyncio.sleep(0.1)
            assert not second.done()
            hold.set()
            assert (await first)[0] == MODEL_BYTES[:10]
            assert (await second)[0] == MODEL_BYTES[5:20]
        assert bench.origin.given[KEY] == PIECE_BYTES

    async def test_a_cache_that_fails_does_not_hold_up_another(self, bench: Bench) -> None:
        """A piece that one cache could not fetch is fetched by the one that waited for it."""
        await bench.tree.publish("7", FILES)
        bench.origin.cuts.append((KEY, 1000))
        async with bench.cache() as one, bench.cache() as other:
            results = await asyncio.gather(read(one, MODEL), read(other, MODEL), return_exceptions=True)
            assert any(result == (MODEL_BYTES, BodySource.FILL) for result in results)
            assert (await read(one, MODEL))[0] == MODEL_BYTES

    async def test_an_idle_fill_is_let_go(self, bench: Bench) -> None:
        """A fill that nobody reads any more does not keep another cache from the room that it takes."""
        size = 2 * PIECE_BYTES
        await bench.tree.publish("7", {"a": some_bytes(size, seed=1), "b": some_bytes(size, seed=2)})
        settings = CacheSettings(idle_fill_seconds=0.05)
        async with bench.cache(settings, budget_bytes=size) as one, bench.cache(budget_bytes=size) as other:
            await read(one, "org/bert@7/a", ByteRange(0, 10))
            await eventually(lambda: bench.events.outcomes == ["closed"])
            data, source = await read(other, "org/bert@7/b")
            assert (data, source) == (some_bytes(size, seed=2), BodySource.FILL)

    async def test_a_fill_that_another_goes_on_with_is_not_taken_from_it(self, bench: Bench) -> None:
        """Evicting a version in one cache leaves alone what another one is reading of it."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as one, bench.cache() as other:
            await read(one, MODEL, ByteRange(0, 10))
            body = await open_body(other, MODEL)
            assert await one.evict(await resolve(one, "org/bert@7")) == 0
            await body.close()
            assert (await read(other, MODEL))[0] == MODEL_BYTES
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_what_another_has_seen_published_is_not_garbage(self, bench: Bench) -> None:
        """A cache that has not heard of a new version or alias leaves alone what another one keeps for it."""
        contents = {str(number): some_bytes(1000, seed=number) for number in range(1, 4)}
        for version in ("1", "2"):
            await bench.tree.publish(version, {"model.safetensors": contents[version]})
        settings = CacheSettings(keep_versions=1)
        async with bench.cache(settings) as one, bench.cache(settings) as other:
            await one.warm(await resolve(one, "org/bert@2"))
            await bench.tree.publish("3", {"model.safetensors": contents["3"]})
            await bench.tree.alias("prod", "1")
            bench.pass_seconds(60)
            for version in ("3", "1"):
                await other.warm(await resolve(other, f"org/bert@{version}"))
            kept = {f"org/bert/manifests/{version}.json" for version in ("3", "1")}
            # Documents are written one after the other, an index before its manifests.
            await eventually(lambda: bench.backing.documents() >= kept)
            await one.gc()
            await one.gc()
            for version in ("3", "1"):
                answer = await read(other, f"org/bert@{version}/model.safetensors")
                assert answer == (contents[version], BodySource.HIT)
        async with bench.cache(settings) as late:
            await late.gc()
            for version in ("3", "1"):
                answer = await read(late, f"org/bert@{version}/model.safetensors")
                assert answer == (contents[version], BodySource.HIT)
