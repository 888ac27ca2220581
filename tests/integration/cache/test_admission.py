"""Fills of many blobs at once: who gets the piece buffers, and in which order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hotstart.wire.layout import file_key
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.telemetry.load import Load
from tests.integration.cache.conftest import Bench
from tests.integration.cache.published_tree import MODEL, some_bytes
from tests.integration.cache.reading import eventually, read

# As many as there are piece buffers, and as many of them as batch may have.
ALL, BATCH = 17, 12
SIZE = 1000


@dataclass
class Held:
    """Readers of files of one piece each, whose bytes the origin holds back until they are let go."""

    bench: Bench
    cache: Cache
    tasks: asyncio.TaskGroup
    events: dict[str, asyncio.Event] = field(default_factory=dict)

    def begin(self, name: str, tier: Tier) -> asyncio.Task[object]:
        """Begin to read a file."""
        if name not in self.events:
            key = file_key(MODEL, "1", name)
            self.events[name] = self.bench.origin.hold(key, ByteRange(0, SIZE))
        return self.tasks.create_task(self._read(name, tier))

    async def _read(self, name: str, tier: Tier) -> None:
        data, _ = await read(self.cache, f"{MODEL}@1/{name}", tier=tier)
        assert data == some_bytes(SIZE, int(name))

    def let_go(self, name: str) -> None:
        """Let a file's bytes come."""
        self.events[name].set()

    def fetched(self) -> list[str]:
        """Names of the files that the origin was asked for, in that order."""
        return [key.rpartition("/")[2] for key in self.bench.origin.gets]

    async def until(self, held: int, waiting: int) -> None:
        """Wait until so many buffers are in use, and so many readers wait for one."""
        await eventually(lambda: self._stands(held, waiting))

    def _stands(self, held: int, waiting: int) -> bool:
        load = self.cache.load()
        return (load.slots_held, load.slots_waiting, len(self.fetched())) == (
            held,
            waiting,
            held + sum(event.is_set() for event in self.events.values()),
        )


async def begin(
    stack: AsyncExitStack, bench: Bench, files: int = ALL + 6, budget_bytes: int | None = None
) -> Held:
    """Publish files named by numbers, more than there are buffers, and open a cache."""
    contents = {str(number): some_bytes(SIZE, number) for number in range(files)}
    await bench.tree.publish("1", contents)
    cache = await stack.enter_async_context(bench.cache(budget_bytes=budget_bytes))
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    return Held(bench, cache, tasks)


async def test_the_order_of_grants(bench: Bench) -> None:
    """Buffers that come free go to premium, then to standard, then to batch, each in the order of coming."""
    async with AsyncExitStack() as stack:
        held = await begin(stack, bench)
        for number in range(ALL):
            held.begin(str(number), Tier.PREMIUM)
        await held.until(ALL, 0)
        coming = [Tier.BATCH, Tier.STANDARD, Tier.PREMIUM, Tier.BATCH, Tier.STANDARD, Tier.PREMIUM]
        for number, tier in enumerate(coming, 1):
            held.begin(str(ALL - 1 + number), tier)
            await held.until(ALL, number)
        order = [str(ALL + place) for place in (2, 5, 1, 4)]
        for number, name in enumerate(order, 1):
            # Batch gets none while anybody above it waits.
            held.let_go(str(number))
            await held.until(ALL, len(coming) - number)
            assert held.fetched()[-1] == name
        for number in range(ALL + len(coming)):
            held.let_go(str(number))
        await eventually(lambda: len(held.fetched()) == ALL + len(coming))
        assert held.fetched()[-2:] == [str(ALL), str(ALL + 3)]


async def test_batch_leaves_buffers_for_premium(bench: Bench) -> None:
    """While batch has all buffers it may have, and more of it waits, premium is served at once."""
    async with AsyncExitStack() as stack:
        held = await begin(stack, bench)
        batch = range(BATCH + 4)
        premium = range(batch.stop, batch.stop + 3)
        for number in batch:
            held.begin(str(number), Tier.BATCH)
        await held.until(BATCH, 4)
        for number in premium:
            task = held.begin(str(number), Tier.PREMIUM)
            held.let_go(str(number))
            await task
        assert held.fetched()[BATCH:] == [str(number) for number in premium]
        await held.until(BATCH, 4)
        for number in batch:
            held.let_go(str(number))


async def test_whoever_joins_raises_the_tier(bench: Bench) -> None:
    """A fill that batch began goes before others once a premium reader has joined it."""
    async with AsyncExitStack() as stack:
        held = await begin(stack, bench)
        for number in range(BATCH + 3):
            held.begin(str(number), Tier.BATCH)
            await held.until(min(number + 1, BATCH), max(0, number + 1 - BATCH))
        last = str(BATCH + 2)
        held.begin(last, Tier.PREMIUM)
        await held.until(BATCH + 1, 2)
        assert held.fetched()[-1] == last
        for number in range(BATCH + 3):
            held.let_go(str(number))


async def test_a_cancelled_reader_leaves_no_buffer_behind(bench: Bench) -> None:
    """Readers that go away while they wait, or while their bytes come, take no buffer with them."""
    async with AsyncExitStack() as stack:
        held = await begin(stack, bench)
        files = range(ALL + 3)
        tasks = [held.begin(str(number), Tier.STANDARD) for number in files]
        await held.until(ALL - 1, 4)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for number in files:
            held.let_go(str(number))
        # What was asked for is still fetched.
        await eventually(lambda: held.cache.load() == Load())
        assert len(held.fetched()) == len(files)


async def test_what_is_passed_on_is_bounded_by_tier(bench: Bench) -> None:
    """Of reads that nothing is kept of, batch has its share, standard its own, and premium begins at once."""
    async with AsyncExitStack() as stack:
        held = await begin(stack, bench, files=60, budget_bytes=1)
        for number in range(20):
            held.begin(str(number), Tier.BATCH)
        await eventually(lambda: (held.cache.load().passes, held.cache.load().passes_waiting) == (16, 4))
        for number in range(20, 50):
            held.begin(str(number), Tier.STANDARD)
        await eventually(lambda: (held.cache.load().passes, held.cache.load().passes_waiting) == (40, 10))
        task = held.begin("50", Tier.PREMIUM)
        held.let_go("50")
        await task
        held.let_go("0")
        await eventually(lambda: held.cache.load().passes_waiting == 9)
        assert 44 <= int(held.fetched()[-1]) < 50
        for number in range(50):
            held.let_go(str(number))
