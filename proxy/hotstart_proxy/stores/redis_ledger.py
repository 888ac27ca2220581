"""The budget of a Redis store: one hash that says what every blob takes, fills included, for all proxies.

A reservation is made before a blob's record and confirmed after it; whoever finds an entry without a record
removes it. Both write or compare the entry as it was, so that the two never lose a reservation in between.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from .redis_keys import LEDGER, LEDGER_LAYOUT
from .redis_link import RedisLink
from .redis_scripts import INSTALL, RESERVE, UNRESERVE

__all__ = ["LedgerGone", "RedisLedger", "default_budget"]

# Under what a server says that it may use: it needs some for its own, and evicts or refuses at its limit.
_SHARE_OF_MAXMEMORY: Final = 0.8
_SHARE_OF_MACHINE: Final = 0.5
_NAME: Final = re.compile(rb"[0-9a-f]{64}")
_ENTRY: Final = re.compile(rb"(\d{1,18})(?: .*)?", re.DOTALL)


class LedgerGone(Exception):
    """The hash has vanished or lacks something: it is made whole from the records. Never leaves the store."""


class RedisLedger:
    """What is reserved, as last heard of.

    Attributes:
        budget_bytes: None until it is known.
        sizes: bytes by content id.
    """

    def __init__(self, link: RedisLink, budget_bytes: int | None) -> None:
        self._link = link
        self.budget_bytes = budget_bytes
        self.sizes: dict[str, int] = {}
        # What this process changed itself since the last read began, None for what it removed: Redis may have
        # answered before it.
        self._changed: dict[str, int | None] = {}

    @property
    def used_bytes(self) -> int:
        """Return the sum of all reservations."""
        return sum(self.sizes.values())

    async def reserve(self, doing: str, content_id: str, size: int) -> bool:
        """Reserve the space of a blob, or take its reservation over; False where there is no room.

        Raises:
            LedgerGone
            StoreError
        """
        entry = _entry(size)
        answer, _ = await self._link.run(
            doing, RESERVE, [LEDGER], content_id, size, entry, self.budget_bytes or 0
        )
        if answer < 0:
            raise LedgerGone
        if answer:
            self._note(content_id, size)
        return bool(answer)

    def _note(self, content_id: str, size: int | None) -> None:
        self._changed[content_id] = size
        if size is None:
            self.sizes.pop(content_id, None)
        else:
            self.sizes[content_id] = size

    def saw(self, content_id: str, size: int) -> None:
        """Take note of a blob that is there, reserved by whomever."""
        if content_id not in self.sizes:
            self._note(content_id, size)

    def missed(self, content_id: str) -> None:
        """Take note that nothing is reserved for a blob."""
        self._note(content_id, None)

    async def entry(self, doing: str, content_id: str) -> bytes | None:
        """Return a blob's entry as it is, None if there is none, for ``remove``."""
        entry: bytes | None = await self._link.command(doing, "HGET", LEDGER, content_id)
        return entry

    async def remove(self, doing: str, content_id: str, entry: bytes) -> None:
        """Give a blob's space back, unless it has been reserved again since entry was read."""
        if await self._link.run(doing, UNRESERVE, [LEDGER], content_id, entry):
            self._note(content_id, None)

    async def read(self, doing: str) -> None:
        """Learn what all proxies have reserved. One call at a time.

        Raises:
            LedgerGone: also where entries were damaged, which are removed.
            StoreError
        """
        self._changed.clear()
        fields: dict[bytes, bytes] = await self._link.command(doing, "HGETALL", LEDGER)
        if fields.pop(LEDGER_LAYOUT, None) is None:
            raise LedgerGone
        sizes: dict[str, int] = {}
        damaged: list[tuple[bytes, bytes]] = []
        for name, entry in fields.items():
            match = _ENTRY.fullmatch(entry)
            if match is None or _NAME.fullmatch(name) is None:
                damaged.append((name, entry))
            else:
                sizes[name.decode()] = int(match[1])
        for name, entry in damaged:
            await self._link.run(doing, UNRESERVE, [LEDGER], name, entry)
        if damaged:
            raise LedgerGone
        for content_id, size in self._changed.items():
            if size is None:
                sizes.pop(content_id, None)
            else:
                sizes[content_id] = size
        self.sizes = sizes

    async def install(self, doing: str, sizes: dict[str, int]) -> None:
        """Make the ledger whole again with what was found; entries that are there stay as they are."""
        arguments = [item for name, size in sizes.items() for item in (name, _entry(size))]
        await self._link.run(doing, INSTALL, [LEDGER], *arguments)


def _entry(size: int) -> str:
    return f"{size} {secrets.token_hex(8)}"


async def default_budget(link: RedisLink, doing: str) -> tuple[int, str]:
    """Return a budget for when none is given, and what it is a share of, in words.

    Servers on one machine share its memory; each primary's maxmemory is its own.
    """
    reports = await link.information(doing, "memory")
    limits = [int(report.get("maxmemory", 0)) for report in reports]
    if all(limits):
        return int(sum(limits) * _SHARE_OF_MAXMEMORY), f"{_SHARE_OF_MAXMEMORY:.0%} of Redis's maxmemory"
    # A server without a limit of its own has the machine's. Several may be on one machine, and none says so.
    machine = min(int(report.get("total_system_memory", 0)) for report in reports)
    return int(machine * _SHARE_OF_MACHINE), f"{_SHARE_OF_MACHINE:.0%} of the memory of Redis's machine"
