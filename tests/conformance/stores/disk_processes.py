"""What a process on a shared disk store does, for tests that need real ones.

python disk_processes.py ROOT share SEED SIZE   fills a blob together with others, until it is committed
python disk_processes.py ROOT half SEED SIZE    writes piece 0, then half of piece 1, prints "half", and stops
python disk_processes.py ROOT crowd SEED BUDGET begins, finishes, drops and deletes fills at random, for ever

Blobs are of ``blob_bytes(SEED, SIZE)``. The first prints, when it is done, how many pieces it wrote and the
sha256 of what it read.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import time
import zlib
from pathlib import Path

from hotstart.wire.digests import sha256_id
from hotstart.wire.pieces import PieceHasher, Pieces, piece_count, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores.base import FileSlice, NoSpaceNow, PartialBlob
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.system import System

__all__ = ["CROWD_BYTES", "blob_bytes"]

CROWD_BYTES = 3000


def blob_bytes(seed: int, size: int) -> bytes:
    """Return the bytes of a blob."""
    return random.Random(seed).randbytes(size)


def _pieces(data: bytes) -> Pieces:
    hasher = PieceHasher()
    hasher.update(data)
    return hasher.finish()[1]


async def _write(partial: PartialBlob, data: bytes, piece: int) -> None:
    place = piece_range(piece, len(data))
    part = data[place.start : place.stop]
    await partial.write(piece, part, zlib.crc32(part))


async def share(root: Path, seed: int, size: int) -> None:
    """Fill with others, in an order of one's own, and read all of it."""
    data = blob_bytes(seed, size)
    async with DiskStore(root, 1 << 40) as store:
        print("open", flush=True)
        sys.stdin.readline()
        partial = await store.begin_fill(sha256_id(data), size, _pieces(data))
        written = 0
        if partial is None:
            blob = await store.open_blob(sha256_id(data))
            assert blob is not None
            found = hashlib.sha256()
            async for part in blob.parts(ByteRange(0, size)):
                assert isinstance(part, FileSlice)
                found.update(os.pread(part.descriptor, part.length, part.offset))
            print(written, found.hexdigest(), flush=True)
            return
        order = list(range(piece_count(size)))
        random.Random(os.getpid()).shuffle(order)
        while not all(partial.done):
            for piece in order:
                if partial.left[piece]:
                    await partial.recover(piece)
                elif not partial.done[piece] and await partial.claim([piece]):
                    await _write(partial, data, piece)
                    written += 1
            await partial.refresh()
            await asyncio.sleep(partial.poll_seconds)
        await partial.commit(sha256_id(data))
        digest = hashlib.sha256()
        for piece in range(piece_count(size)):
            async for part in partial.parts(piece_range(piece, size)):
                assert isinstance(part, FileSlice)
                digest.update(os.pread(part.descriptor, part.length, part.offset))
        await partial.close()
        print(written, digest.hexdigest(), flush=True)


class HalfWrites(System):
    """Stops for ever in the middle of piece 1."""

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        if offset and offset % (4 * 1024 * 1024) == 0:
            super().write(descriptor, data[: len(data) // 2], offset)
            print("half", flush=True)
            time.sleep(3600)
        return super().write(descriptor, data, offset)


async def half(root: Path, seed: int, size: int) -> None:
    """Write one piece, and half of the next."""
    data = blob_bytes(seed, size)
    async with DiskStore(root, 1 << 40, HalfWrites()) as store:
        partial = await store.begin_fill(sha256_id(data), size, _pieces(data))
        assert partial is not None
        for piece in range(2):
            assert await partial.claim([piece])
            await _write(partial, data, piece)


async def crowd(root: Path, seed: int, budget_bytes: int) -> None:
    """Use the store at random, for ever."""
    chance = random.Random(seed)
    async with DiskStore(root, budget_bytes) as store:
        print("open", flush=True)
        while True:
            data = blob_bytes(chance.randrange(20), chance.randrange(CROWD_BYTES // 2, CROWD_BYTES))
            try:
                partial = await store.begin_fill(sha256_id(data), len(data), None)
            except NoSpaceNow:
                await store.drop_partials(0)
                if store.blobs():
                    await store.delete(chance.choice(list(store.blobs())))
                continue
            if partial is None:
                await store.quarantine(sha256_id(data))
                continue
            if not partial.left[0] and await partial.claim([0]):
                await _write(partial, data, 0)
            if all([await partial.recover(piece) for piece in range(len(partial.done))]):
                await partial.commit(sha256_id(data))
            elif chance.random() < 0.5:
                await partial.discard()
            await partial.close()


if __name__ == "__main__":
    _root, _role, *_numbers = sys.argv[1:]
    asyncio.run({"share": share, "half": half, "crowd": crowd}[_role](Path(_root), *map(int, _numbers)))
