"""Blob records and fill leases in Redis: each method one script, its answer taken apart."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from hotstart.wire.pieces import piece_count

from .base import StoreError, Vanished
from .redis_keys import GENERATION_BYTES, HEADER_BYTES, Record, State, blob_key, lease_key, new_header
from .redis_link import RedisLink
from .redis_scripts import (
    BEGIN,
    CLAIM,
    COMMIT,
    DELETE,
    DISCARD,
    DROP,
    DROP_LEASE,
    GONE,
    LEAVE,
    LOOK,
    MARK,
    RELEASE,
    RENEW,
    UNMARK,
)

__all__ = ["FillName", "Records", "Seen"]


@dataclass(frozen=True, slots=True)
class FillName:
    """By what one process goes in one fill.

    Attributes:
        id: the blob's.
        generation: of the record that it fills; nothing is written to another.
        holder: random; whose claims are its.
    """

    id: str
    generation: bytes
    holder: str

    @property
    def keys(self) -> tuple[str, str]:
        """The record and the lease, which share a slot."""
        return blob_key(self.id), lease_key(self.id)


@dataclass(frozen=True, slots=True)
class Seen:
    """A record, and which of its pieces others have claimed at that moment."""

    record: Record
    claimed: Set[int]


def _entry(crc32: int) -> bytes:
    return struct.pack("<II", 1, crc32)


class Records:
    """All records of a store."""

    def __init__(self, link: RedisLink, lease_seconds: float) -> None:
        """Claims lapse lease_seconds after their holder was last heard of."""
        self._link = link
        self.lease_seconds = lease_seconds
        self._lease_ms = int(lease_seconds * 1000)

    async def read(self, doing: str, content_id: str) -> Record | None:
        """Read a record; None if there is none."""
        return Record.parse(await self._link.command(doing, "GET", blob_key(content_id)))

    async def headers(self, doing: str, content_ids: Sequence[str]) -> dict[str, Record | None]:
        """Read the headers of many records."""
        commands = [("GETRANGE", blob_key(content_id), 0, HEADER_BYTES - 1) for content_id in content_ids]
        found = await self._link.many(doing, commands)
        return {name: Record.parse(data) for name, data in zip(content_ids, found, strict=True)}

    async def begin(self, doing: str, content_id: str, size: int) -> tuple[FillName, Record] | None:
        """Join in a blob's fill, or begin it anew; None where the blob is complete."""
        holder = secrets.token_hex(GENERATION_BYTES)
        header = new_header(size, secrets.token_bytes(GENERATION_BYTES))
        keys = [blob_key(content_id), lease_key(content_id)]
        complete, data = await self._link.run(
            doing, BEGIN, keys, header, piece_count(size), holder, self._lease_ms
        )
        if complete:
            return None
        record = Record.parse(data)
        if record is None:
            raise StoreError(self._link.url, doing, "Redis gave something that is no record")
        return FillName(content_id, record.generation, holder), record

    def _known(self, doing: str, answer: object) -> None:
        if answer == GONE:
            raise Vanished(self._link.url, doing, "it was removed, or begun anew by another process")

    async def renew(self, doing: str, name: FillName) -> None:
        """Say that the holder lives.

        Raises:
            Vanished
            StoreError
        """
        self._known(doing, await self._link.run(doing, RENEW, name.keys, *_who(name), self._lease_ms))

    async def claim(self, doing: str, name: FillName, pieces: Sequence[int]) -> list[int]:
        """Claim pieces; return those that were granted (errors as ``renew``)."""
        arguments = (*_who(name), self._lease_ms, *pieces)
        granted = await self._link.run(doing, CLAIM, name.keys, *arguments)
        self._known(doing, granted)
        return list(granted)

    async def release(self, doing: str, name: FillName, pieces: Sequence[int]) -> None:
        """Give claims back."""
        await self._link.run(doing, RELEASE, [lease_key(name.id)], name.holder, *pieces)

    async def look(self, doing: str, name: FillName) -> Seen:
        """See what others have done (errors as ``renew``)."""
        answer = await self._link.run(doing, LOOK, name.keys, *_who(name))
        self._known(doing, answer)
        data, claimed = answer
        record = Record.parse(data)
        if record is None:
            raise Vanished(self._link.url, doing, "its record is damaged")
        return Seen(record, frozenset(claimed))

    async def mark(self, doing: str, name: FillName, piece: int, crc32: int) -> None:
        """Note that a chunk is there (errors as ``renew``)."""
        answer = await self._link.run(doing, MARK, name.keys, *_who(name), piece, _entry(crc32))
        self._known(doing, answer)

    async def unmark(self, doing: str, content_id: str, generation: bytes, pieces: Mapping[int, int]) -> None:
        """Note that chunks are not there, or not what their crc32 says; a complete blob is so no more."""
        pairs = [item for piece, crc32 in pieces.items() for item in (piece, _entry(crc32))]
        await self._link.run(doing, UNMARK, [blob_key(content_id)], generation, *pairs)

    async def commit(self, doing: str, name: FillName, size: int) -> None:
        """Make a blob complete.

        Raises:
            Vanished: its record, or the chunk of a piece.
            StoreError
        """
        missing = await self._link.run(doing, COMMIT, name.keys, name.generation, piece_count(size))
        self._known(doing, missing)
        if missing:
            raise Vanished(self._link.url, doing, f"{missing} pieces have vanished since they were written")

    async def leave(self, doing: str, name: FillName) -> State | None:
        """End all claims of a holder; return the blob's state, None where its record is gone."""
        state = await self._link.run(doing, LEAVE, name.keys, *_who(name))
        return None if state == GONE else State(state)

    async def discard(self, doing: str, name: FillName, *, force: bool) -> bool:
        """Remove the record of a fill, unless it is complete, or others fill it still and force is false.

        Returns:
            Whether it is gone.
        """
        arguments = (*_who(name), "force" if force else "")
        return bool(await self._link.run(doing, DISCARD, name.keys, *arguments))

    async def drop(self, doing: str, content_id: str, idle_seconds: float) -> bool:
        """Remove the record of a fill that nobody goes on with; tell whether it was."""
        keys = [blob_key(content_id), lease_key(content_id)]
        return bool(await self._link.run(doing, DROP, keys, int(idle_seconds * 1000)))

    async def delete(self, doing: str, content_id: str) -> bool:
        """Remove the record of a complete blob; tell whether there was one."""
        return bool(await self._link.run(doing, DELETE, [blob_key(content_id), lease_key(content_id)]))

    async def drop_lease(self, doing: str, content_id: str) -> None:
        """Remove a lease that has no record."""
        await self._link.run(doing, DROP_LEASE, [blob_key(content_id), lease_key(content_id)])


def _who(name: FillName) -> tuple[bytes, str]:
    """Return what a script takes to know who calls."""
    return name.generation, name.holder
