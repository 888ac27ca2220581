"""Slots of tasks: the order of grants, and that cancelling loses none."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.cache.slots import Slots
from hotstart_proxy.core.tiers import Tier

ONE = dict.fromkeys(Tier, 1)


async def turn() -> None:
    """Let every task go as far as it can."""
    for _ in range(4):
        await asyncio.sleep(0)


async def test_the_order_of_grants() -> None:
    """Premium goes before standard, standard before batch, batch before what nobody asked for."""
    slots = Slots(ONE)
    order: list[Tier] = []

    async def work(tier: Tier) -> None:
        async with slots.slot(lambda: tier):
            order.append(tier)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group, slots.slot(lambda: Tier.STANDARD):
        for tier in (Tier.WARMING, Tier.BATCH, Tier.PREMIUM, Tier.BATCH, Tier.STANDARD, Tier.PREMIUM):
            group.create_task(work(tier))
        await turn()
        assert slots.waiting == 6
    assert order == sorted(order, reverse=True)
    assert (slots.held, slots.waiting) == (0, 0)


async def test_cancelled_in_the_moment_of_its_grant() -> None:
    """A waiter that is cancelled when its slot has just been granted passes it on."""
    slots = Slots(ONE)
    served: list[str] = []

    async def work(name: str) -> None:
        async with slots.slot(lambda: Tier.STANDARD):
            served.append(name)

    async with slots.slot(lambda: Tier.STANDARD):
        first, second = asyncio.create_task(work("first")), asyncio.create_task(work("second"))
        await turn()
    # The first has its slot by now and has not run since.
    assert slots.held == 1
    first.cancel()
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert served == ["second"]
    assert (slots.held, slots.waiting) == (0, 0)


async def test_a_raised_tier_is_served_after_a_review() -> None:
    """A waiter whom a ceiling held back gets a free slot as soon as its tier has risen and that is told."""
    slots = Slots({Tier.WARMING: 1, Tier.BATCH: 1, Tier.STANDARD: 2, Tier.PREMIUM: 2})
    tier = Tier.BATCH
    served = asyncio.Event()

    async def work() -> None:
        async with slots.slot(lambda: tier):
            served.set()

    async with slots.slot(lambda: Tier.BATCH):
        task = asyncio.create_task(work())
        await turn()
        assert not served.is_set()
        tier = Tier.STANDARD
        slots.review()
        await task
    assert (slots.held, slots.waiting) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from(Tier), st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_no_slot_is_lost(workers: list[tuple[Tier, int, bool]]) -> None:
    """Whoever is cancelled, while waiting, while holding or between, all slots come back."""

    async def run() -> None:
        slots = Slots({Tier.WARMING: 1, Tier.BATCH: 1, Tier.STANDARD: 2, Tier.PREMIUM: 3})

        async def work(tier: Tier, turns: int) -> None:
            async with slots.slot(lambda: tier):
                assert slots.held <= 3
                for _ in range(turns):
                    await asyncio.sleep(0)

        tasks = []
        for tier, turns, cancelled in workers:
            tasks.append(asyncio.create_task(work(tier, turns)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[len(tasks) // 2].cancel()
        await asyncio.wait(tasks)
        assert (slots.held, slots.waiting) == (0, 0)

    asyncio.run(run())
