"""Pins, whatever the stores."""

from __future__ import annotations

import shutil

import pytest

from hotstart.wire.manifest import Manifest
from hotstart_proxy.cache.answers import BodySource, Pinned, PinRefused
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import MODEL, some_bytes
from tests.integration.cache.reading import eventually, read, resolve

WEIGHTS_BYTES = 100_000


FILE = "model.safetensors"


def weights(version: int) -> bytes:
    return some_bytes(WEIGHTS_BYTES, seed=version)


async def publish(bench: Bench, *versions: int) -> list[Manifest]:
    return [await bench.tree.publish(str(version), {FILE: weights(version)}) for version in versions]


async def warm(cache: Cache, *versions: int) -> None:
    for version in versions:
        await cache.warm(await resolve(cache, f"org/bert@{version}"))


class PinSuite:
    """See ``suite.CacheSuite``."""

    async def test_a_pin_keeps_a_version_on_top_of_the_newest(self, bench: Bench) -> None:
        """A pinned version stays and can be warmed while it is not among the newest; unpinned, it goes."""
        manifests = await publish(bench, 1, 2, 3, 4, 5, 6)
        async with bench.cache() as cache:
            old = await resolve(cache, "org/bert@1")
            assert not old.kept
            old = await cache.pin(old)
            assert old.kept
            assert cache.kept_versions(MODEL) == ("1", "2", "3", "4", "5", "6")
            await cache.warm(old)
            await cache.gc()
            assert (await read(cache, f"org/bert@1/{FILE}"))[1] is BodySource.HIT
            assert await cache.unpin(MODEL, "1")
            assert not bench.backing.holds(manifests[0].files[0].id)
            assert not await cache.unpin(MODEL, "1")
            assert not (await resolve(cache, "org/bert@1")).kept

    async def test_what_is_pinned_does_not_yield_to_the_budget(self, bench: Bench) -> None:
        """Of three versions in room for two the pinned one stays, though it is the oldest."""
        await publish(bench, 1, 2, 3)
        async with bench.cache(budget_bytes=2 * WEIGHTS_BYTES + 1000) as cache:
            await cache.pin(await resolve(cache, "org/bert@1"))
            await warm(cache, 1, 2, 3)
            sources = {version: (await read(cache, f"org/bert@{version}/{FILE}"))[1] for version in (1, 3)}
            assert sources == {1: BodySource.HIT, 3: BodySource.HIT}
            assert bench.events.evictions == [("budget", WEIGHTS_BYTES)]

    async def test_a_pin_beyond_the_budget_is_refused(self, bench: Bench) -> None:
        """Pins that do not fit together are refused with the numbers, and nothing is kept of the attempt."""
        await publish(bench, 1, 2, 3)
        async with bench.cache(budget_bytes=2 * WEIGHTS_BYTES + 1000) as cache:
            for version in (1, 2, 1):
                await cache.pin(await resolve(cache, f"org/bert@{version}"))
            with pytest.raises(PinRefused) as refused:
                await cache.pin(await resolve(cache, "org/bert@3"))
            assert (refused.value.needed_bytes, refused.value.pinned_bytes) == (
                WEIGHTS_BYTES,
                2 * WEIGHTS_BYTES,
            )
            assert refused.value.budget_bytes == 2 * WEIGHTS_BYTES + 1000
            assert cache.pinned_versions(MODEL) == {"1", "2"}
            assert "org/bert/pins/3.json" not in bench.backing.documents()
            await cache.unpin(MODEL, "2")
            await cache.pin(await resolve(cache, "org/bert@3"))

    async def test_a_pinned_version_is_not_evicted(self, bench: Bench) -> None:
        """Evicting what is pinned is refused, and says what to do first."""
        await publish(bench, 1)
        async with bench.cache() as cache:
            pinned = await cache.pin(await resolve(cache, "org/bert@1"))
            await cache.warm(pinned)
            with pytest.raises(Pinned, match="unpin it first"):
                await cache.evict(pinned)
            assert (await read(cache, f"org/bert@1/{FILE}"))[1] is BodySource.HIT

    async def test_pins_outlive_a_restart(self, bench: Bench) -> None:
        """A pin, and what it holds, is there after a restart, also under a budget that is too small."""
        await publish(bench, 1, 2, 3, 4, 5, 6)
        async with bench.cache() as cache:
            await cache.warm(await cache.pin(await resolve(cache, "org/bert@1")))
            await warm(cache, 6)
        async with bench.cache(budget_bytes=WEIGHTS_BYTES - 1) as cache:
            await eventually(lambda: cache.usage().used_bytes <= WEIGHTS_BYTES)
            await cache.gc()
            assert (await read(cache, f"org/bert@1/{FILE}"))[1] is BodySource.HIT
            assert cache.pinned_versions(MODEL) == {"1"}

    async def test_a_pin_counts_in_every_process_on_the_store(self, bench: Bench) -> None:
        """What one process has pinned another keeps, evicts nothing of, and may unpin."""
        await publish(bench, 1, 2, 3, 4, 5, 6)
        budget = 2 * WEIGHTS_BYTES + 1000
        async with bench.cache(budget_bytes=budget) as first, bench.cache(budget_bytes=budget) as second:
            await first.gc()
            await second.gc()
            assert not (await resolve(second, "org/bert@1")).kept
            await first.pin(await resolve(first, "org/bert@1"))
            pinned = await resolve(second, "org/bert@1")
            assert pinned.kept
            await second.warm(pinned)
            await warm(second, 4, 5, 6)
            assert (await read(second, f"org/bert@1/{FILE}"))[1] is BodySource.HIT
            assert await second.unpin(MODEL, "1")
            await first.gc()
            assert not (await resolve(first, "org/bert@1")).kept

    async def test_a_damaged_pin_still_pins(self, bench: Bench) -> None:
        """Damage to a pin's document does not let its version go: the manifest says what it holds."""
        await publish(bench, 1, 2, 3, 4, 5, 6)
        async with bench.cache() as cache:
            await cache.warm(await cache.pin(await resolve(cache, "org/bert@1")))
        bench.backing.spoil_document("org/bert/pins/1.json")
        async with bench.cache() as cache:
            await resolve(cache, "org/bert")
            await cache.gc()
            assert (await read(cache, f"org/bert@1/{FILE}"))[1] is BodySource.HIT

    async def test_a_damaged_manifest_does_not_let_a_pinned_version_go(self, bench: Bench) -> None:
        """The pin itself says what it holds while the manifest is not here."""
        (manifest,) = await publish(bench, 1)
        async with bench.cache() as cache:
            await cache.warm(await cache.pin(await resolve(cache, "org/bert@1")))
        bench.backing.spoil_document("org/bert/manifests/1.json")
        async with bench.cache() as cache:
            await cache.gc()
            assert bench.backing.holds(manifest.files[0].id)

    async def test_a_pin_on_an_unpublished_version_holds_nothing(self, bench: Bench) -> None:
        """A pinned version that was taken away at the origin goes, and its pin can still be ended."""
        (manifest, _) = await publish(bench, 1, 2)
        budget = WEIGHTS_BYTES + 1000
        async with bench.cache(budget_bytes=budget) as cache:
            await cache.warm(await cache.pin(await resolve(cache, "org/bert@1")))
            await bench.tree.write_index(bench.tree.indexes[MODEL].without_version("1"))
            shutil.rmtree(bench.tree.root / MODEL / "1")
            bench.pass_seconds(60)
            await resolve(cache, "org/bert")
            await eventually(lambda: not bench.backing.holds(manifest.files[0].id))
            await cache.pin(await resolve(cache, "org/bert@2"))
            assert await cache.unpin(MODEL, "1")

    async def test_retention_of_single_models(self, bench: Bench) -> None:
        """One model may keep more or fewer versions than the others."""
        for version in range(1, 5):
            await bench.tree.publish(str(version), {FILE: weights(version)})
            await bench.tree.publish(str(version), {FILE: weights(version)}, "org/other")
        settings = CacheSettings(keep_versions=2, keep_versions_of={MODEL: 3})
        async with bench.cache(settings) as cache:
            for model in (MODEL, "org/other"):
                await resolve(cache, model)
            assert cache.kept_versions(MODEL) == ("2", "3", "4")
            assert cache.kept_versions("org/other") == ("3", "4")
