"""What is kept and what goes, whatever the stores."""

from __future__ import annotations

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.cache.answers import BodySource, NotKept
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read, resolve

TOKENIZER = b'{"the same": "in all versions"}'


WEIGHTS_BYTES = 100_000


def weights(version: int) -> bytes:
    return some_bytes(WEIGHTS_BYTES, seed=version)


async def publish(bench: Bench, *versions: int) -> None:
    for version in versions:
        files = {"model.safetensors": weights(version), "tokenizer.json": TOKENIZER}
        await bench.tree.publish(str(version), files)


class RetentionSuite:
    """See ``suite.CacheSuite``."""

    async def test_five_of_six_are_kept(self, bench: Bench) -> None:
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
            await eventually(lambda: not bench.backing.holds(own.id))
            assert bench.backing.holds(shared.id)
            # The blob goes first and the count follows, where a store of several machines is between.
            await eventually(lambda: cache.usage().used_bytes == 5 * WEIGHTS_BYTES + len(TOKENIZER))
            for version in range(2, 7):
                assert await read(cache, f"org/bert@{version}/model.safetensors") == (
                    weights(version),
                    BodySource.HIT,
                )

    async def test_a_retired_version_is_still_served(self, bench: Bench) -> None:
        """A version that is not kept is passed through, is not kept by being read, and cannot be warmed."""
        await publish(bench, 1, 2, 3, 4, 5, 6)
        async with bench.cache() as cache:
            resolved = await resolve(cache, "org/bert@1")
            assert not resolved.kept
            assert await read(cache, "org/bert@1/model.safetensors") == (weights(1), BodySource.PASSED_ON)
            assert cache.usage().used_bytes == 0
            with pytest.raises(NotKept, match="give it an alias"):
                await cache.warm(resolved)

    async def test_an_alias_keeps_an_old_version(self, bench: Bench) -> None:
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
            await eventually(lambda: not bench.backing.holds(resolved.manifest.files[0].id))

    async def test_retention_after_a_restart(self, bench: Bench) -> None:
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

    async def test_the_budget_is_never_exceeded(self, bench: Bench) -> None:
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

    async def test_a_file_larger_than_the_budget(self, bench: Bench) -> None:
        """What never fits is passed through, evicts nothing, and is said to be so."""
        await bench.tree.publish("1", {"small": b"abc", "large": weights(1)})
        async with bench.cache(budget_bytes=1000) as cache:
            await read(cache, "org/bert@1/small")
            await eventually(lambda: bench.events.outcomes)
            assert await read(cache, "org/bert@1/large") == (weights(1), BodySource.PASSED_ON)
            assert any("full" in reason for reason in cache.state().degraded)
            assert (await read(cache, "org/bert@1/small"))[1] is BodySource.HIT
        assert bench.events.evictions == []

    async def test_files_of_one_version_do_not_evict_each_other(self, bench: Bench) -> None:
        """Where not all files of a version fit, the rest is passed through instead of evicting the first."""
        await bench.tree.publish("1", {"a": weights(1), "b": weights(2)})
        async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
            await read(cache, "org/bert@1/a")
            await eventually(lambda: bench.events.outcomes)
            assert await read(cache, "org/bert@1/b") == (weights(2), BodySource.PASSED_ON)
            assert (await read(cache, "org/bert@1/a"))[1] is BodySource.HIT

    async def test_a_lower_budget_after_a_restart(self, bench: Bench) -> None:
        """A store that is over its new budget is brought under it, oldest version first."""
        await publish(bench, 1, 2, 3)
        async with bench.cache() as cache:
            for version in (1, 2, 3):
                await cache.warm(await resolve(cache, f"org/bert@{version}"))
        async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
            await eventually(lambda: cache.usage().used_bytes <= WEIGHTS_BYTES + 1000)
            assert (await read(cache, "org/bert@3/model.safetensors"))[1] is BodySource.HIT

    async def test_what_is_open_is_not_evicted_for_space(self, bench: Bench) -> None:
        """Evicting an open blob would free nothing, so another goes or the reader is passed through."""
        await publish(bench, 1, 2)
        async with bench.cache(budget_bytes=WEIGHTS_BYTES + 1000) as cache:
            await cache.warm(await resolve(cache, "org/bert@1"))
            body = await open_body(cache, "org/bert@1/model.safetensors")
            assert body.source is BodySource.HIT
            assert (await read(cache, "org/bert@2/model.safetensors"))[1] is BodySource.PASSED_ON
            await body.close()
            assert (await read(cache, "org/bert@2/model.safetensors"))[1] is BodySource.FILL

    async def test_evicting_spares_what_others_need(self, bench: Bench) -> None:
        """Evicting one version leaves the blobs that it shares with another kept one."""
        await publish(bench, 1, 2)
        async with bench.cache() as cache:
            for version in (1, 2):
                await cache.warm(await resolve(cache, f"org/bert@{version}"))
            assert (
                await cache.evict(await resolve(cache, "org/bert@1")) == bench.backing.copies * WEIGHTS_BYTES
            )
            assert cache.cached(await resolve(cache, "org/bert@1")) == {"tokenizer.json": len(TOKENIZER)}
            assert len(cache.cached(await resolve(cache, "org/bert@2"))) == 2

    async def test_what_is_evicted_is_read_to_its_end(self, bench: Bench) -> None:
        """A reader of a blob that is evicted gets all of its bytes, and nothing of it is kept."""
        data = some_bytes(3 * PIECE_BYTES)
        await bench.tree.publish("1", {"model.safetensors": data})
        async with bench.cache() as cache:
            resolved = await resolve(cache, "org/bert@1")
            await cache.warm(resolved)
            body = await open_body(cache, "org/bert@1/model.safetensors")
            parts = body.parts()
            got = part_bytes(await anext(parts))
            assert await cache.evict(resolved) == bench.backing.copies * len(data)
            got += b"".join([part_bytes(part) async for part in parts])
            assert got == data
            await body.close()
