"""Indexes and manifests, whatever the stores."""

from __future__ import annotations

import asyncio

import pytest

from hotstart_proxy.cache.answers import BodySource, NotFound
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.origins.base import OriginUnreachable
from tests.conformance.caches.bench import Bench
from tests.integration.cache.reading import eventually, read, resolve
from tests.support.deadlines import DEADLINE_SECONDS

FILES = {"model.safetensors": b"weights"}


INDEX_KEY = "org/bert/.hotstart/index.json"


MANIFEST_KEY = "org/bert/7/.hotstart/manifest.json"


class IndexSuite:
    """See ``suite.CacheSuite``."""

    async def test_an_index_is_asked_for_once_a_ttl(self, bench: Bench) -> None:
        """Within the ttl the origin is not asked; after it, it is, and a moved alias is seen."""
        await bench.tree.publish("7", FILES)
        await bench.tree.publish("8", FILES)
        await bench.tree.alias("prod", "7")
        async with bench.cache(CacheSettings(alias_ttl_seconds=10)) as cache:
            assert (await resolve(cache, "org/bert")).manifest.version == "7"
            asked = bench.origin.reads[INDEX_KEY]
            await bench.tree.alias("prod", "8")
            bench.pass_seconds(9)
            assert (await resolve(cache, "org/bert")).manifest.version == "7"
            assert bench.origin.reads[INDEX_KEY] == asked
            bench.pass_seconds(2)
            assert (await resolve(cache, "org/bert")).manifest.version == "8"

    async def test_many_who_ask_cost_one_request(self, bench: Bench) -> None:
        """However many resolve at once, index and manifest are read once."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            await asyncio.gather(*(resolve(cache, "org/bert@7") for _ in range(32)))
            assert bench.origin.reads[INDEX_KEY] == 1
            assert bench.origin.reads[MANIFEST_KEY] == 1

    async def test_a_version_just_published_is_found(self, bench: Bench) -> None:
        """A version that the known index does not name is looked for once more before it is missing."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            await resolve(cache, "org/bert@7")
            await bench.tree.publish("8", FILES)
            bench.pass_seconds(2)
            assert (await resolve(cache, "org/bert@8")).manifest.version == "8"
            with pytest.raises(NotFound):
                await resolve(cache, "org/bert@9")
            asked = bench.origin.reads[INDEX_KEY]
            with pytest.raises(NotFound):
                await resolve(cache, "org/bert@9")
            assert bench.origin.reads[INDEX_KEY] == asked

    async def test_warm_versions_are_served_while_the_origin_is_away(self, bench: Bench) -> None:
        """What is held is served, by a process that has never met the origin too; that it is away is said."""
        await bench.tree.publish("7", FILES)
        await bench.tree.alias("prod", "7")
        async with bench.cache() as cache:
            await cache.warm(await resolve(cache, "org/bert"))
            bench.origin.away = True
            bench.pass_seconds(3600)
            assert await read(cache, "org/bert@prod/model.safetensors") == (b"weights", BodySource.HIT)
            assert any("the origin is away" in reason for reason in cache.state().degraded)
        async with bench.cache() as cache:
            assert await read(cache, "org/bert@prod/model.safetensors") == (b"weights", BodySource.HIT)
            assert await cache.models() == ("org/bert",)
            assert cache.state().can_serve
            bench.origin.away = False
            bench.pass_seconds(3600)
            await cache.index("org/bert")
            await eventually(lambda: cache.state().degraded == ())

    async def test_a_silent_origin_holds_nobody_up(self, bench: Bench) -> None:
        """While the origin hangs, one reader waits a little and all get what is known; then news are seen."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            await resolve(cache, "org/bert@7")
            await bench.tree.publish("8", FILES)
            bench.pass_seconds(3600)
            bench.origin.silent = asyncio.Event()
            async with asyncio.timeout(DEADLINE_SECONDS):
                for _ in range(100):
                    assert (await resolve(cache, "org/bert")).manifest.version == "7"
            bench.origin.silent.set()
            await eventually(lambda: cache.kept_versions("org/bert") == ("7", "8"))
            assert (await resolve(cache, "org/bert")).manifest.version == "8"

    async def test_cannot_is_never_missing(self, bench: Bench) -> None:
        """With nothing known and the origin away the error is the origin's, not that nothing is there."""
        bench.origin.away = True
        async with bench.cache() as cache:
            with pytest.raises(OriginUnreachable):
                await resolve(cache, "org/bert")
            with pytest.raises(OriginUnreachable):
                await cache.models()
            assert not cache.state().can_serve

    async def test_missing_models_are_remembered_for_a_while(self, bench: Bench) -> None:
        """A model that does not exist is not asked for again within the ttl, and found after it."""
        async with bench.cache() as cache:
            for _ in range(3):
                with pytest.raises(NotFound):
                    await cache.index("org/bert")
            assert bench.origin.reads[INDEX_KEY] == 1
            await bench.tree.publish("7", FILES)
            bench.pass_seconds(60)
            assert (await cache.index("org/bert")).latest() == "7"

    async def test_a_version_published_anew(self, bench: Bench) -> None:
        """A version that was published again with other bytes is not served from the old copy."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            await cache.warm(await resolve(cache, "org/bert@7"))
            index = bench.tree.indexes["org/bert"]
            await bench.tree.write_index(index.without_version("7"))
            await bench.tree.publish("7", {"model.safetensors": b"other weights"})
            bench.pass_seconds(60)
            assert (await read(cache, "org/bert@7/model.safetensors"))[0] == b"other weights"

    async def test_damaged_documents_heal(self, bench: Bench) -> None:
        """Documents in the store that cannot be read are fetched again."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            await cache.warm(await resolve(cache, "org/bert@7"))
        for name in bench.backing.documents():
            bench.backing.spoil_document(name)
        async with bench.cache() as cache:
            assert (await read(cache, "org/bert@7/model.safetensors"))[0] == b"weights"

    async def test_models_are_listed(self, bench: Bench) -> None:
        """All models of the origin are named, once a ttl."""
        await bench.tree.publish("7", FILES)
        await bench.tree.publish("1", FILES, model="org/gpt")
        async with bench.cache() as cache:
            assert await cache.models() == ("org/bert", "org/gpt")
