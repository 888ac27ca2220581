"""What lies in Redis under our names: one walk over all keys, and what it shows to be lost or left over."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from .redis_keys import PREFIX, Record, blob_key
from .redis_link import RedisLink

__all__ = ["Found", "scan"]

_KEY: Final = re.compile(rb"%b([bcl]):\{([0-9a-f]{64})(?:\.(\d{1,9}))?\}" % PREFIX.encode())


@dataclass(slots=True)
class Found:
    """All that was found, by content id.

    Attributes:
        records: None where the record's bytes are none of ours.
        chunks: the pieces that have one.
        leases: the ids that have one.
    """

    records: dict[str, Record | None] = field(default_factory=dict)
    chunks: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    leases: set[str] = field(default_factory=set)

    def lost(self, content_id: str) -> list[int]:
        """Return the pieces that a record has and no chunk was seen of: it may have come since."""
        record, chunks = self.records[content_id], self.chunks.get(content_id, set())
        entries = () if record is None else enumerate(record.crc32)
        return [piece for piece, crc32 in entries if crc32 is not None and piece not in chunks]


async def scan(link: RedisLink, doing: str) -> Found:
    """Walk over all keys, and read all records.

    Raises:
        StoreError
    """
    found = Found()
    names: set[str] = set()
    async for key in link.keys(doing):
        match = _KEY.fullmatch(key)
        if match is None:
            continue
        content_id = match[2].decode()
        if match[1] == b"c" and match[3] is not None:
            found.chunks[content_id].add(int(match[3]))
        elif match[1] == b"b":
            names.add(content_id)
        else:
            found.leases.add(content_id)
    order = sorted(names)
    answers = await link.many(doing, [("GET", blob_key(name)) for name in order])
    for name, data in zip(order, answers, strict=True):
        if data is not None:
            found.records[name] = Record.parse(data)
    return found
