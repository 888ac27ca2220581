"""Turns of writers: batch stands back while premium sends, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.server.transfers import MAX_SENDFILE_BYTES, FileTransfer
from hotstart_proxy.server.turns import Turns
from hotstart_proxy.stores.base import FileSlice
from tests.support.deadlines import DEADLINE_SECONDS


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


async def test_a_reader_that_stops_reading_lets_batch_send(tmp_path: Path) -> None:
    """A premium transfer whose socket is full rests, also where the portion that filled it was whole."""
    file = tmp_path / "blob"
    file.write_bytes(bytes(16 * MAX_SENDFILE_BYTES))
    ours, theirs = socket.socketpair()
    turns = Turns()
    batch = turns.of(Tier.BATCH)
    assert batch is not None
    with ours, theirs, file.open("rb") as opened:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_SENDFILE_BYTES)
        part = FileSlice(opened.fileno(), 0, 16 * MAX_SENDFILE_BYTES)
        transfer = FileTransfer(part, turns.of(Tier.PREMIUM), idle_seconds=DEADLINE_SECONDS)
        sending = asyncio.create_task(transfer.run(ours.fileno()))
        while not transfer.sent:  # noqa: ASYNC110 - a transfer has no event for it
            await asyncio.sleep(0)
        await batch.take()
        sending.cancel()
        await asyncio.wait({sending})
