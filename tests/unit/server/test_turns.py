"""Turns of writers: batch stands back while premium sends, and nobody else notices."""

from __future__ import annotations

import asyncio

from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.server.turns import Turns


async def test_standard_has_no_turns() -> None:
    """A standard transfer neither asks nor tells."""
    assert Turns().of(Tier.STANDARD) is None


async def test_batch_stands_back_while_premium_sends() -> None:
    """Batch gets no turn until premium rests, and gets one then."""
    turns = Turns()
    premium, batch = turns.of(Tier.PREMIUM), turns.of(Tier.BATCH)
    assert premium is not None
    assert batch is not None
    await batch.take()
    await premium.take()
    await premium.take()
    waiting = asyncio.create_task(batch.take())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    premium.rest()
    premium.rest()
    await waiting


async def test_a_cancelled_batch_transfer_leaves_nothing() -> None:
    """A batch transfer that is cancelled while it stands back takes nobody's turn with it."""
    turns = Turns()
    premium, batch, other = turns.of(Tier.PREMIUM), turns.of(Tier.BATCH), turns.of(Tier.BATCH)
    assert premium is not None
    assert batch is not None
    assert other is not None
    await premium.take()
    waiting = asyncio.create_task(batch.take())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    premium.rest()
    await other.take()
