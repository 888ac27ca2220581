"""New versions are here before anyone asks for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

import pytest

from hotstart.wire.index import Index
from hotstart.wire.layout import file_key, index_key
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.polling import Learned
from hotstart_proxy.stores.base import StoreError
from tests.integration.cache.conftest import Bench
from tests.integration.cache.following import SELDOM_SECONDS, followed
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, read, resolve

WEIGHTS_BYTES = 100_000
OTHER = "org/other"


def files(version: int) -> dict[str, bytes]:
    return {
        "model.safetensors": some_bytes(WEIGHTS_BYTES, seed=version),
        "tokenizer.json": b"%d" % version,
    }


async def publish(bench: Bench, *versions: int, model: str = "org/bert") -> None:
    for version in versions:
        await bench.tree.publish(str(version), files(version), model)


def given(bench: Bench, version: int, model: str = "org/bert") -> int:
    """How many bytes of a version's weights the origin gave."""
    return bench.origin.given[file_key(model, str(version), "model.safetensors")]


async def test_a_new_version_is_filled_before_anyone_asks(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that is published while the proxy holds an older one is here when it is first asked for."""
    caplog.set_level(logging.INFO, "hotstart_proxy.arrivals")
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await publish(bench, 2)
        await eventually(lambda: proxy.heard.warmed)
        assert given(bench, 2) == WEIGHTS_BYTES
        assert await read(proxy.cache, "org/bert@2/model.safetensors") == (
            files(2)["model.safetensors"],
            BodySource.HIT,
        )
        assert given(bench, 2) == WEIGHTS_BYTES
        assert given(bench, 1) == 0, "what was here already is not filled further"
        assert proxy.heard.arrived == [("org/bert", "poll")]
        (line,) = proxy.logged(caplog.records, "a version is warm")
        assert (line["model"], line["version"]) == ("org/bert", "2")
        assert proxy.changed == ["org/bert"]
    assert proxy.heard.failures == 0


async def test_a_poll_that_meets_a_failing_store_is_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails under a poll ends neither that model's polls nor others'."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        poll, failed = proxy.cache.poll, list[str]()

        async def failing_at_first(model: str) -> Index | None:
            if len(failed) < 2:
                failed.append(model)
                raise StoreError("disk:/s", "removing index.json", "read-only file system")
            return await poll(model)

        monkeypatch.setattr(proxy.cache, "poll", failing_at_first)
        await publish(bench, 2)
        await eventually(lambda: proxy.heard.warmed)
        assert failed == ["org/bert", "org/bert"]


async def test_an_empty_store_polls_nothing(bench: Bench) -> None:
    """A proxy that holds nothing, and that nobody has asked for anything, asks the origin for nothing."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        assert not await proxy.arrivals.hint("org/bert", Learned.SQS)
        assert proxy.arrivals._schedule.next_at() is None
        await asyncio.sleep(0)
    assert not bench.origin.reads


async def test_models_in_the_store_are_polled_after_a_restart(bench: Bench) -> None:
    """What was published while no proxy ran is filled by the next one, though nobody asks it for anything."""
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS) as proxy:
        await proxy.cache.warm(await resolve(proxy.cache, "org/bert@1"))
    await publish(bench, 2)
    async with followed(bench) as proxy:
        await eventually(lambda: proxy.heard.warmed)
    assert given(bench, 2) == WEIGHTS_BYTES


async def test_a_model_that_nobody_wants_is_not_filled(bench: Bench) -> None:
    """Of a model whose index was seen long ago, but of which nothing is held, new versions are not filled."""
    await publish(bench, 1, model=OTHER)
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await proxy.cache.index(OTHER)
        await resolve(proxy.cache, "org/bert")
        await publish(bench, 2, model=OTHER)
        await eventually(lambda: OTHER in proxy.changed)
        await publish(bench, 2)
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.arrived == [("org/bert", "poll")]
        assert given(bench, 2, OTHER) == 0
        await eventually(lambda: not proxy.notes() and not proxy.cache._tasks)


async def test_what_was_asked_for_long_ago_is_not_wanted(bench: Bench) -> None:
    """A model that a reader asked for hours ago, and of which nothing is held, is not filled."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await resolve(proxy.cache, "org/bert")
        bench.pass_seconds(4000)
        await publish(bench, 2)
        await eventually(lambda: proxy.changed)
        assert not await proxy.cache.in_use("org/bert")
        await eventually(lambda: not proxy.cache._tasks)
    assert proxy.heard.arrived == []


async def test_only_kept_versions_are_filled(bench: Bench) -> None:
    """Of many new versions the newest are filled, as many as are kept."""
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS, settings=CacheSettings(keep_versions=2)) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await publish(bench, 2, 3, 4)
        assert await proxy.arrivals.hint("org/bert", Learned.NOTIFY)
        await eventually(lambda: len(proxy.heard.warmed) == 2)
        assert [given(bench, version) for version in (2, 3, 4)] == [0, WEIGHTS_BYTES, WEIGHTS_BYTES]
        assert proxy.heard.arrived == [("org/bert", "notify")] * 2


async def test_the_one_version_that_is_kept(bench: Bench) -> None:
    """Where one version is kept, a new one that retires it is filled in its place, also after a restart."""
    settings = CacheSettings(keep_versions=1)
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS, settings=settings) as proxy:
        await proxy.cache.warm(await resolve(proxy.cache, "org/bert"))
    for version in (2, 3):
        await publish(bench, version)
        async with followed(bench, settings=settings) as proxy:
            await eventually(lambda: proxy.heard.warmed)
            await eventually(lambda: proxy.cache.usage().blobs == 2)
        assert given(bench, version) == WEIGHTS_BYTES


async def test_a_rollback_to_a_version_that_is_gone(bench: Bench) -> None:
    """An alias that moves to a version that is not held brings it, and one that is held costs nothing."""
    await publish(bench, 1, 2, 3)
    async with followed(bench, settings=CacheSettings(keep_versions=1)) as proxy:
        await proxy.cache.warm(await resolve(proxy.cache, "org/bert@3"))
        await bench.tree.alias("prod", "1")
        await eventually(lambda: given(bench, 1) == WEIGHTS_BYTES)
        await bench.tree.alias("prod", "3")
        await eventually(lambda: len(proxy.heard.arrived) == 2)
        await eventually(lambda: not len(proxy.arrivals._queue))
        assert given(bench, 3) == WEIGHTS_BYTES
        assert proxy.heard.warmed == [], "what is not new has no time since its publishing"


async def test_readers_come_first_and_the_default_before_the_newest(bench: Bench) -> None:
    """What prod means is filled before newer versions."""
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await publish(bench, 2, 3, 4)
        await bench.tree.alias("prod", "2")
        held = [
            bench.origin.hold(file_key("org/bert", str(version), name), ByteRange(0, 10))
            for version in (2, 4)
            for name in files(version)
        ]
        await proxy.arrivals.hint("org/bert", Learned.NOTIFY)
        begun = {file_key("org/bert", str(version), name) for version in (2, 4) for name in files(version)}
        await eventually(lambda: begun <= bench.origin.gets.keys())
        assert given(bench, 3) == 0
        assert file_key("org/bert", "3", "model.safetensors") not in bench.origin.gets
        for event in held:
            event.set()
        await eventually(lambda: len(proxy.heard.warmed) == 3)


async def test_an_origin_that_is_away(bench: Bench) -> None:
    """Polls of an origin that is away fail quietly, and what came meanwhile is filled when it is back."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        bench.origin.away = True
        await eventually(lambda: proxy.arrivals._schedule._outages > 2)
        assert proxy.cache.state().degraded
        await publish(bench, 2)
        bench.origin.away = False
        await eventually(lambda: proxy.heard.warmed)
        assert not proxy.cache.state().degraded


async def test_a_fill_that_fails_is_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A fill that fails midway is logged and counted, and goes on from what it had."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        bench.origin.cuts = [(file_key("org/bert", "2", "model.safetensors"), 50_000)]
        await publish(bench, 2)
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.failures == 1
        (line,) = proxy.logged(caplog.records, "a version could not be filled")
        assert "connection reset" in str(line["reason"])
        assert line["again_in"] is not None


async def test_a_version_that_never_fits_is_given_up(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A version larger than the budget is not begun, costs nothing, evicts nothing, and is told once."""
    await publish(bench, 1)
    async with followed(bench, budget_bytes=3 * WEIGHTS_BYTES) as proxy:
        await proxy.cache.warm(await resolve(proxy.cache, "org/bert@1"))
        great = {f"{part}.bin": some_bytes(WEIGHTS_BYTES, seed=part) for part in range(10, 14)}
        await bench.tree.publish("2", great)
        await eventually(lambda: proxy.heard.failures)
        await publish(bench, 3)
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.failures == 1
        (line,) = proxy.logged(caplog.records, "a version is given up")
        assert "the budget is 300000" in str(line["reason"])
        assert await read(proxy.cache, "org/bert@1/model.safetensors") == (
            files(1)["model.safetensors"],
            BodySource.HIT,
        )
        assert not [key for key in bench.origin.gets if key.startswith("org/bert/2/")]


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_fill_that_was_cut_short_by_the_end_is_taken_up(bench: Bench, damaged: bool) -> None:
    """What was being filled when the process ended is filled by the next, even if its note is damaged."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        bench.origin.hold(file_key("org/bert", "2", "model.safetensors"), ByteRange(0, 1))
        await publish(bench, 2)
        await eventually(lambda: bench.origin.gets[file_key("org/bert", "2", "model.safetensors")])
        await eventually(lambda: proxy.notes() == ["2.json"])
    bench.origin.holds.clear()
    if damaged:
        (note,) = bench.store_root.glob("models/*/*/arrivals/*")
        note.write_bytes(bytes([note.read_bytes()[0] ^ 1]) + note.read_bytes()[1:])
    async with followed(bench, SELDOM_SECONDS) as proxy:
        await eventually(lambda: given(bench, 2) == WEIGHTS_BYTES)
        await eventually(lambda: proxy.notes() == [])


async def test_a_model_that_is_gone_is_polled_no_more(bench: Bench) -> None:
    """A model that is not at the origin any more is forgotten, and what is held of it stays as it is."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        assert "org/bert" in proxy.arrivals._schedule
        await bench.tree.origin.delete(index_key("org/bert"))
        for path in (bench.tree.root / "org/bert/1").rglob("*"):
            if path.is_file():
                path.unlink()
        bench.pass_seconds(120)
        await eventually(lambda: "org/bert" not in proxy.arrivals._schedule)


async def test_a_reader_that_sees_the_new_index_first(bench: Bench) -> None:
    """A version that a reader's own look at the index brought is filled as well."""
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await publish(bench, 2)
        bench.pass_seconds(60)
        assert (await resolve(proxy.cache, "org/bert")).manifest.version == "2"
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.arrived == [("org/bert", "reader")]


class Told:
    """News that a test gives."""

    name = "--sqs-queue"
    learned = Learned.SQS

    def __init__(self) -> None:
        self.models: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, trouble: Callable[[str | None], None]) -> AsyncGenerator[str, None]:
        trouble("nobody answers")
        while True:
            model = await self.models.get()
            trouble(None)
            yield model


async def test_news_from_a_source(bench: Bench) -> None:
    """What a source says has news is polled at once; what is of no interest is not."""
    await publish(bench, 1)
    news = Told()
    async with followed(bench, SELDOM_SECONDS, sources=[news]) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await eventually(lambda: proxy.cache.state().degraded == ("--sqs-queue: nobody answers",))
        await publish(bench, 2)
        for model in ("org/unknown", "org/bert", "org/bert"):
            news.models.put_nowait(model)
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.arrived == [("org/bert", "sqs")]
        assert proxy.cache.state().degraded == ()
        assert not [key for key in bench.origin.reads if "unknown" in key]


async def test_what_was_announced_is_not_announced_again(bench: Bench) -> None:
    """A proxy that learned of a version by an announcement does not announce it in its turn."""
    await publish(bench, 1)
    async with followed(bench, SELDOM_SECONDS) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await publish(bench, 2)
        await proxy.arrivals.hint("org/bert", Learned.PUBSUB)
        await eventually(lambda: proxy.heard.warmed)
        assert proxy.heard.arrived == [("org/bert", "pubsub")]
        assert proxy.changed == []


async def test_models_of_neighbours(bench: Bench) -> None:
    """A model that only a neighbour on the same store was asked for is polled, and can be hinted at."""
    await publish(bench, 1)
    await publish(bench, 1, model=OTHER)
    async with followed(bench, SELDOM_SECONDS) as lazy, followed(bench) as keen:
        async with bench.cache() as neighbour:
            await neighbour.warm(await resolve(neighbour, "org/bert"))
            await neighbour.warm(await resolve(neighbour, OTHER))
            await eventually(lambda: not neighbour._tasks)
        await eventually(lambda: "org/bert" in keen.arrivals._schedule)
        assert "org/bert" not in lazy.arrivals._schedule
        assert await lazy.arrivals.hint("org/bert", Learned.NOTIFY)
        assert not await lazy.arrivals.hint("org/none", Learned.NOTIFY)
        await publish(bench, 2)
        await eventually(lambda: keen.heard.warmed)


async def test_a_malformed_index(bench: Bench) -> None:
    """An index that cannot be read is no arrival, and the next good one is."""
    await publish(bench, 1)
    async with followed(bench) as proxy:
        await read(proxy.cache, "org/bert@1/tokenizer.json")
        await bench.tree.origin.put(index_key("org/bert"), b"{}")
        await eventually(lambda: proxy.arrivals._schedule._turns["org/bert"].failures)
        await publish(bench, 2)
        await eventually(lambda: proxy.heard.warmed)


async def test_a_named_model_that_is_published_first(bench: Bench) -> None:
    """An index that nobody knew before is no news but for who waits for it: its versions are not new."""
    async with followed(bench, ready_when=["org/bert@prod"]) as proxy:
        await publish(bench, 1)
        await bench.tree.write_index(bench.tree.indexes["org/bert"])
        assert isinstance(await proxy.cache.poll("org/bert"), Index)
        assert proxy.heard.arrived == []
