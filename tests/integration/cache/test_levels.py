"""Two levels: what the first store lacks comes from the second, and what both lack from the origin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from hotstart_proxy.cache.answers import Body, BodySource, NotFound, PinRefused, Redirect
from hotstart_proxy.cache.arrivals import Arrivals
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.levels import LeveledCache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.polling import Learned
from hotstart_proxy.origins.base import OriginUnreachable
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.base import StoreError
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.telemetry.load import Load
from tests.integration.cache.conftest import Bench, Events
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.following import SELDOM_SECONDS, Heard
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read, resolve

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 777, seed=5)
FILES = {"model.safetensors": MODEL_BYTES}
FILE = "org/bert@7/model.safetensors"
KEY = "org/bert/7/model.safetensors"
INDEX_KEY = "org/bert/.hotstart/index.json"


@dataclass
class Levels:
    """A cache over another, each with a disk store and events of its own."""

    bench: Bench
    folder: Path
    upper: Events = field(default_factory=Events)
    lower: Events = field(default_factory=Events)
    below: Cache | None = None

    @asynccontextmanager
    async def open(
        self,
        settings: CacheSettings | None = None,
        *,
        top: str = "top",
        budgets: tuple[int | None, int | None] = (None, None),
    ) -> AsyncIterator[Cache]:
        """Open both levels; top names the folder of the first store: another one is a new, empty disk."""
        bench, settings = self.bench, settings or CacheSettings()
        async with (
            DiskStore(self.folder / "below", budgets[1]) as lower,
            Cache(TreeOrigin(bench.origin, Layout()), lower, settings, self.lower, bench.clock) as below,
            DiskStore(self.folder / top, budgets[0]) as upper,
            LeveledCache(below, lower.url, upper, settings, self.upper, bench.clock) as cache,
        ):
            self.below = below
            yield cache
        assert cache.load() == Load()

    def blobs(self, store: str) -> list[Path]:
        """Return the blobs of one store."""
        return list((self.folder / store / "blobs").glob("*/*"))


@pytest.fixture
def levels(bench: Bench, tmp_path: Path) -> Levels:
    return Levels(bench, tmp_path / "levels")


async def test_a_miss_fills_both(levels: Levels) -> None:
    """What neither store has comes from the origin once, and both keep it."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: levels.upper.outcomes and levels.lower.outcomes)
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.HIT)
    assert levels.bench.origin.given[KEY] == len(MODEL_BYTES)
    assert len(levels.blobs("top")) == len(levels.blobs("below")) == 1


async def test_a_new_disk_is_filled_from_below(levels: Levels) -> None:
    """A process with an empty first store costs the origin not one byte of a file, nor a manifest."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    given, reads = levels.bench.origin.given.copy(), levels.bench.origin.reads.copy()
    async with levels.open(top="new") as cache:
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: len(levels.blobs("new")) == 1)
    assert levels.bench.origin.given == given
    assert levels.bench.origin.reads.keys() - {INDEX_KEY} == reads.keys() - {INDEX_KEY}


async def test_a_new_disk_while_the_origin_is_away(levels: Levels) -> None:
    """What the second store has is served by a new process though the origin is away all the time."""
    await levels.bench.tree.publish("7", FILES)
    await levels.bench.tree.alias("prod", "7")
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    levels.bench.origin.away = True
    async with levels.open(top="new") as cache:
        assert (await read(cache, "org/bert@prod/model.safetensors"))[0] == MODEL_BYTES
        assert cache.state().can_serve
        assert any("the origin is away" in reason for reason in cache.state().degraded)
        assert len(cache.state().degraded) == 1


async def test_the_origin_is_away_and_nothing_is_here(levels: Levels) -> None:
    """With nothing in either store and no origin it is an error, not absence, and the proxy cannot serve."""
    levels.bench.origin.away = True
    async with levels.open() as cache:
        with pytest.raises(OriginUnreachable):
            await cache.index("org/bert")
        assert not cache.state().can_serve
        levels.bench.origin.away = False
        levels.bench.pass_seconds(60)
        with pytest.raises(NotFound):
            await cache.index("org/bert")
        await eventually(lambda: cache.state().degraded == ())


async def test_64_readers_cost_one_copy(levels: Levels) -> None:
    """However many read at once over both levels, the origin gives each byte once."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        ranges = [ByteRange(start * 64 * 1024, len(MODEL_BYTES)) for start in range(64)]
        answers = await asyncio.gather(*(read(cache, FILE, wanted) for wanted in ranges))
    for wanted, (data, _) in zip(ranges, answers, strict=True):
        assert data == MODEL_BYTES[wanted.start : wanted.stop]
    assert levels.bench.origin.given[KEY] == len(MODEL_BYTES)


async def test_bytes_come_through_both_as_they_arrive(levels: Levels) -> None:
    """A reader has the first pieces while the origin still holds the last one back."""
    await levels.bench.tree.publish("7", FILES)
    hold = levels.bench.origin.hold(KEY, ByteRange(3 * PIECE_BYTES, len(MODEL_BYTES)))
    async with levels.open() as cache:
        body = await open_body(cache, FILE)
        data = b""
        async for part in body.parts():
            data += part_bytes(part)
            if len(data) >= 2 * PIECE_BYTES:
                hold.set()
        await body.close()
        assert data == MODEL_BYTES


async def test_only_what_is_asked_for_is_fetched(levels: Levels) -> None:
    """A range far ahead costs the origin its piece alone, at both levels."""
    await levels.bench.tree.publish("7", FILES)
    end = ByteRange(len(MODEL_BYTES) - 10, len(MODEL_BYTES))
    async with levels.open() as cache:
        assert (await read(cache, FILE, end))[0] == MODEL_BYTES[-10:]
    assert levels.bench.origin.given[KEY] == 777


async def test_times_to_live_do_not_add_up(levels: Levels) -> None:
    """A moved alias is seen once the first level's index is old; the second one delays nothing."""
    await levels.bench.tree.publish("7", FILES)
    await levels.bench.tree.publish("8", FILES)
    await levels.bench.tree.alias("prod", "7")
    async with levels.open(CacheSettings(alias_ttl_seconds=10)) as cache:
        levels.bench.pass_seconds(9)
        assert levels.below is not None
        await levels.below.index("org/bert")
        levels.bench.pass_seconds(2)
        assert (await resolve(cache, "org/bert")).manifest.version == "7"
        asked = levels.bench.origin.reads[INDEX_KEY]
        await levels.bench.tree.alias("prod", "8")
        levels.bench.pass_seconds(9)
        assert (await resolve(cache, "org/bert")).manifest.version == "7"
        assert levels.bench.origin.reads[INDEX_KEY] == asked
        levels.bench.pass_seconds(2)
        assert (await resolve(cache, "org/bert")).manifest.version == "8"
        assert levels.bench.origin.reads[INDEX_KEY] == asked + 1


async def test_what_does_not_exist_is_asked_for_once(levels: Levels) -> None:
    """A missing model costs the origin one look, and is found once it exists, as soon as at one level."""
    async with levels.open(CacheSettings(alias_ttl_seconds=10)) as cache:
        for _ in range(3):
            with pytest.raises(NotFound):
                await cache.index("org/bert")
        assert levels.bench.origin.reads[INDEX_KEY] == 1
        await levels.bench.tree.publish("7", FILES)
        levels.bench.pass_seconds(11)
        assert (await cache.index("org/bert")).latest() == "7"


async def test_a_store_below_that_fails_is_passed_by(levels: Levels) -> None:
    """When the second store cannot take a fill the first one is filled from the origin all the same."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await resolve(cache, "org/bert@7")
        fills = levels.folder / "below" / "fills"
        await eventually(lambda: len(list((levels.folder / "below/models").glob("org/bert/**/*.json"))) == 2)
        fills.rmdir()
        fills.write_bytes(b"in the way")
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: levels.upper.outcomes == ["complete"])
        assert any("below" in reason for reason in cache.state().degraded)
        assert cache.state().can_serve
        await cache.warm(await resolve(cache, "org/bert@7"))
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.HIT)


async def test_a_store_above_that_fails_is_passed_by(levels: Levels) -> None:
    """When the first store cannot take a fill readers are served from the second one, not from the origin."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
        assert await cache.evict(await resolve(cache, "org/bert@7")) == 2 * len(MODEL_BYTES)
        levels.bench.origin.given.clear()
        async with levels.open(top="other") as other:
            await other.warm(await resolve(other, "org/bert@7"))
        fills = levels.folder / "top" / "fills"
        fills.rmdir()
        fills.write_bytes(b"in the way")
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.PASSED_ON)
    assert levels.bench.origin.given[KEY] == len(MODEL_BYTES)


async def test_a_blob_below_that_breaks_off_is_gone_on_with(levels: Levels) -> None:
    """A file in the second store that is shorter than it should be heals, and no reader sees it."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    (blob,) = levels.blobs("below")
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.truncate(PIECE_BYTES + 5)
    async with levels.open(top="new") as cache:
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        await eventually(lambda: "complete" in levels.upper.outcomes[1:])


async def test_damage_below_reaches_nobody(levels: Levels) -> None:
    """A flipped bit in the second store is found by the first one's fill, and what has it is filled again."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    (blob,) = levels.blobs("below")
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(PIECE_BYTES + 5)
        file.write(bytes([MODEL_BYTES[PIECE_BYTES + 5] ^ 1]))
    async with levels.open(top="new") as cache:
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        assert (levels.upper.refetches, levels.lower.heals) == (1, 1)
    async with levels.open(top="newer") as cache:
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        await eventually(lambda: len(levels.blobs("below")) == 1)
    assert levels.upper.refetches == 1


async def test_each_level_has_its_budget(levels: Levels) -> None:
    """What does not fit the first store is read from the second one, which the origin fills once."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open(budgets=(1000, None)) as cache:
        for _ in range(3):
            assert await read(cache, FILE) == (MODEL_BYTES, BodySource.PASSED_ON)
        assert cache.usage().used_bytes == 0
    assert levels.bench.origin.given[KEY] == len(MODEL_BYTES)


async def test_nobody_is_redirected_past_the_second_store(levels: Levels) -> None:
    """With on_miss=redirect readers are sent to the origin only for what neither store has."""
    await levels.bench.tree.publish("7", FILES)
    levels.bench.origin = FaultOrigin(levels.bench.tree.origin, can_presign=True)
    settings = CacheSettings(on_miss="redirect")
    async with levels.open(settings) as cache:
        resolved = await resolve(cache, "org/bert@7")
        item = resolved.manifest.files[0].identity()
        wanted = ByteRange(0, item.size)
        answer = await cache.read(resolved, item, wanted, may_redirect=True)
        assert isinstance(answer, Redirect)
        await cache.warm(resolved)
    async with levels.open(settings, top="new") as cache:
        body = await cache.read(resolved, item, wanted, may_redirect=True)
        assert isinstance(body, Body)
        await body.close()


async def test_the_fallback_is_the_origins(levels: Levels) -> None:
    """Pre-signed URLs come from the origin through both levels."""
    await levels.bench.tree.publish("7", FILES)
    levels.bench.origin = FaultOrigin(levels.bench.tree.origin, can_presign=True)
    async with levels.open() as cache:
        fallback = await cache.fallback(await resolve(cache, "org/bert"), 60)
        assert fallback is not None
        assert fallback.urls.keys() == {"model.safetensors"}


async def test_evicting_and_pinning_are_done_at_both(levels: Levels) -> None:
    """An eviction frees both stores; a pin holds in both, and is taken off in both."""
    for version in ("1", "2"):
        await levels.bench.tree.publish(version, {"model.safetensors": some_bytes(1000, seed=int(version))})
    async with levels.open(CacheSettings(keep_versions=1)) as cache:
        assert levels.below is not None
        first = await cache.pin(await resolve(cache, "org/bert@1"))
        assert first.kept
        assert levels.below.pinned_versions("org/bert") == {"1"}
        await cache.warm(first)
        await eventually(lambda: len(levels.blobs("top")) == len(levels.blobs("below")) == 1)
        assert await cache.unpin("org/bert", "1")
        assert levels.below.pinned_versions("org/bert") == frozenset()
        await eventually(lambda: not levels.blobs("top") and not levels.blobs("below"))
        second = await resolve(cache, "org/bert@2")
        await cache.warm(second)
        assert await cache.evict(second) == 2000
        assert await cache.gc() == 0


async def test_warming_fills_what_the_second_store_lost(levels: Levels) -> None:
    """A version that only the first store has is in both after warming."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        resolved = await resolve(cache, "org/bert@7")
        await cache.warm(resolved)
        assert levels.below is not None
        await levels.below.evict(resolved)
        assert not levels.blobs("below")
        await cache.warm(resolved)
        assert len(levels.blobs("below")) == 1


async def test_a_version_unpublished_while_it_is_read(levels: Levels) -> None:
    """A fill of a version that the index no longer names goes on to its end."""
    await levels.bench.tree.publish("7", FILES)
    await levels.bench.tree.publish("8", {"x": b"x"})
    hold = levels.bench.origin.hold(KEY, ByteRange(2 * PIECE_BYTES, len(MODEL_BYTES)))
    async with levels.open(CacheSettings(fill_connections=1)) as cache:
        reading = asyncio.create_task(read(cache, FILE))
        await eventually(lambda: levels.bench.origin.given[KEY] >= PIECE_BYTES)
        index = levels.bench.tree.indexes["org/bert"]
        await levels.bench.tree.write_index(index.without_version("7"))
        levels.bench.pass_seconds(60)
        hold.set()
        assert (await reading)[0] == MODEL_BYTES


async def test_three_levels(levels: Levels, tmp_path: Path) -> None:
    """A third level over two works as the second over one does."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as middle, DiskStore(tmp_path / "third", None) as store:
        async with LeveledCache(
            middle, "disk:top", store, CacheSettings(), Events(), levels.bench.clock
        ) as cache:
            assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
            resolved = await resolve(cache, "org/bert@7")
            await cache.warm(resolved)
            assert await cache.evict(resolved) == 3 * len(MODEL_BYTES)
    assert levels.bench.origin.given[KEY] == len(MODEL_BYTES)


async def test_warm_though_the_level_below_lost_it_and_the_origin_is_away(levels: Levels) -> None:
    """What readers read first has everything: warming is done, whatever the level below lacks."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        resolved = await resolve(cache, "org/bert@7")
        await cache.warm(resolved)
        for blob in levels.blobs("below"):
            blob.unlink()
        levels.bench.origin.away = True
        await cache.warm(resolved)
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.HIT)


async def test_a_pin_that_is_refused_is_kept_nowhere(levels: Levels) -> None:
    """A version that does not fit the first store is not left pinned in the second; an older pin stays."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open(budgets=(PIECE_BYTES, None)) as cache:
        resolved = await resolve(cache, "org/bert@7")
        assert levels.below is not None
        with pytest.raises(PinRefused):
            await cache.pin(resolved)
        assert levels.below.pinned_versions("org/bert") == frozenset()
        await levels.below.pin(resolved)
        with pytest.raises(PinRefused):
            await cache.pin(resolved)
        assert levels.below.pinned_versions("org/bert") == cache.pinned_versions("org/bert") == {"7"}


async def test_what_all_levels_hold_is_told(levels: Levels) -> None:
    """The stores are listed from the first down; what a store under a new disk holds counts as in use."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
    async with levels.open(top="new") as cache:
        await cache.resolve(parse_reference("org/bert@7"), for_reader=False)
        upper, lower = cache.stores()
        assert "org/bert" not in upper.models
        assert lower.models["org/bert"]["7"].bytes == len(MODEL_BYTES)
        assert await cache.in_use("org/bert")


async def test_news_of_what_a_lower_store_holds(levels: Levels) -> None:
    """With a new, empty disk over a full store, a hint of news is followed: the model is known there."""
    await levels.bench.tree.publish("7", FILES)
    async with levels.open() as cache:
        await cache.warm(await resolve(cache, "org/bert@7"))
        await eventually(lambda: (levels.folder / "below/models/org/bert/index.json").exists())
    async with (
        levels.open(top="new") as cache,
        DiskStore(levels.folder / "new") as upper,
        DiskStore(levels.folder / "below") as lower,
        Arrivals(cache, [upper, lower], SELDOM_SECONDS, Heard(), polls=False) as arrivals,
    ):
        assert await arrivals.hint("org/bert", Learned.NOTIFY)
        assert not await arrivals.hint("org/unknown", Learned.NOTIFY)


class UnreadableStore(DiskStore):
    """A store that cannot be listed."""

    async def documents(self) -> Sequence[str]:
        raise StoreError(self.url, "listing documents", "input/output error")


async def test_a_store_below_that_cannot_be_read(bench: Bench, tmp_path: Path) -> None:
    """The other level is verified all the same, and the one that could not be is named."""
    await bench.tree.publish("7", FILES)
    settings = CacheSettings()
    async with (
        UnreadableStore(tmp_path / "below") as lower,
        Cache(TreeOrigin(bench.origin, Layout()), lower, settings, Events(), bench.clock) as below,
        DiskStore(tmp_path / "top") as upper,
        LeveledCache(below, lower.url, upper, settings, Events(), bench.clock) as cache,
    ):
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: len(upper.blobs()) == 1)
        found = await cache.verify()
        assert found.checked_blobs == 1
        assert len(found.failed) == 1
        assert "input/output error" in found.failed[0]
