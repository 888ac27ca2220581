"""What a disk store does in steps that can be the last: scenarios, and a system that counts steps.

python disk_steps.py   reads lines "ROOT SCENARIO STEP HALF" and, for each, runs the scenario in a process of
its own that kills itself at that step (counted from 0; with HALF = 1 after half of it, if it is a write);
answers with the process's exit status, negative for a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, PieceHasher, Pieces, piece_count, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores.base import Blob, FileSlice, NoSpaceNow, PartialBlob, Store
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.system import System

__all__ = [
    "BLOB",
    "DOCUMENT",
    "NEW",
    "OLD",
    "SCENARIOS",
    "Scenario",
    "Steps",
    "check_and_go_on",
    "go_on_with",
    "memory_folder",
]

BLOB = random.Random(1).randbytes(PIECE_BYTES + 1000)
OTHER = random.Random(2).randbytes(5000)
DOCUMENT = "org/bert/index.json"
OLD, NEW = b"old" * 1000, b"new" * 2000
_STEPS = (
    "open",
    "make_folder",
    "chmod_folder",
    "chmod",
    "reserve",
    "truncate",
    "write",
    "sync",
    "sync_folder",
    "rename",
    "unlink",
    "touch",
    "lock",
    "claim",
)


class Steps(System):
    """Calls ``before`` with the name and arguments of every step, then takes it."""

    def __init__(self, before: Callable[[System, str, tuple[Any, ...]], None]) -> None:
        self.before = before

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _STEPS:
            return found

        def step(*arguments: Any, **options: Any) -> Any:
            self.before(System(), name, arguments)
            return found(*arguments, **options)

        return step


def digests(data: bytes) -> Pieces:
    """Return the pieces of data."""
    hasher = PieceHasher()
    hasher.update(data)
    return hasher.finish()[1]


async def go_on_with(partial: PartialBlob, data: bytes) -> int:
    """Verify what is left, write what is missing; return how many pieces had to be written."""
    written = 0
    for piece in range(piece_count(len(data))):
        if not await partial.recover(piece):
            assert await partial.claim([piece])
            place = piece_range(piece, len(data))
            part = data[place.start : place.stop]
            await partial.write(piece, part, zlib.crc32(part))
            written += 1
    return written


async def _fill(store: Store, data: bytes, content_id: str | None = None) -> None:
    partial = await store.begin_fill(content_id or sha256_id(data), len(data), None)
    assert partial is not None
    try:
        await go_on_with(partial, data)
        await partial.commit(content_id or sha256_id(data))
    except IntegrityError:
        assert content_id is not None
    finally:
        await partial.close()


async def _leave(store: Store, data: bytes) -> None:
    partial = await store.begin_fill(sha256_id(data), len(data), digests(data))
    assert partial is not None
    await partial.write(0, data[:PIECE_BYTES], zlib.crc32(data[:PIECE_BYTES]))
    await partial.close()


async def _nothing(store: Store) -> None:
    """Prepare nothing but the store itself."""


async def _filled(store: Store) -> None:
    await _fill(store, BLOB)


async def _begun(store: Store) -> None:
    await _leave(store, BLOB)


async def _documented(store: Store) -> None:
    await store.write_document(DOCUMENT, OLD)


async def _first_fill(store: Store) -> None:
    await _fill(store, BLOB)


async def _discard(store: Store) -> None:
    partial = await store.begin_fill(sha256_id(BLOB), len(BLOB), digests(BLOB))
    assert partial is not None
    try:
        await partial.discard()
    finally:
        await partial.close()


async def _wrong_whole(store: Store) -> None:
    await _fill(store, OTHER, "a" * 64)


async def _evict(store: Store) -> None:
    await store.delete(sha256_id(BLOB))


async def _quarantine(store: Store) -> None:
    await store.quarantine(sha256_id(BLOB))


async def _drop(store: Store) -> None:
    await store.drop_partials(0)


async def _write_document(store: Store) -> None:
    await store.write_document(DOCUMENT, NEW)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that a store does.

    Attributes:
        prepare: what was done before, and is durable; None for not even making the store.
        act: what is cut short.
    """

    prepare: Callable[[Store], Awaitable[None]] | None
    act: Callable[[Store], Awaitable[None]]

    async def set_up(self, root: Path) -> None:
        """Prepare a store."""
        if self.prepare is None:
            return
        async with DiskStore(root, 1 << 40) as store:
            await self.prepare(store)

    async def run(self, root: Path, system: System) -> None:
        """Open the store and act, all in steps of this system."""
        async with DiskStore(root, 1 << 40, system) as store:
            await self.act(store)


SCENARIOS: Mapping[str, Scenario] = {
    "new store": Scenario(None, _nothing),
    "first fill": Scenario(_nothing, _first_fill),
    "resumed fill": Scenario(_begun, _first_fill),
    "wrong whole": Scenario(_nothing, _wrong_whole),
    "discard": Scenario(_begun, _discard),
    "eviction": Scenario(_filled, _evict),
    "quarantine": Scenario(_filled, _quarantine),
    "dropping partial blobs": Scenario(_begun, _drop),
    "document": Scenario(_documented, _write_document),
}


async def _read(blob: Blob) -> bytes:
    data = b""
    async for part in blob.parts(ByteRange(0, blob.size)):
        assert isinstance(part, FileSlice)
        data += os.pread(part.descriptor, part.length, part.offset)
    return data


def _whole_files(root: Path) -> dict[str, bytes]:
    """Return what lies in a store, by its path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


async def check_and_go_on(root: Path, *, torn: bool) -> None:
    """Open what a crash has left: only right bytes, no space lost; then fill the blob to its end.

    Args:
        root: of the store, which has held or shall hold BLOB.
        torn: pieces that are said to be verified may be not.
    """
    async with DiskStore(root, 1 << 40) as store:
        files = _whole_files(root)
        parts = {name for name in files if name.endswith(".part")}
        assert {name for name in files if name.startswith("fills/")} == {
            name.removesuffix(".part") + suffix for name in parts for suffix in (".part", ".map")
        }
        sized = [name for name in files if name.startswith(("blobs/", "quarantine/")) or name in parts]
        assert store.usage().used_bytes == sum(len(files[name]) for name in sized)
        for content_id, size in store.blobs().items():
            blob = await store.open_blob(content_id)
            assert blob is not None
            data = await _read(blob)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, content_id)
            await blob.close()
        assert await store.read_document(DOCUMENT) in (None, OLD, NEW)
    # A second process goes on where the first was killed, with no more room than it takes.
    async with DiskStore(root, len(BLOB)) as store:
        try:
            partial = await store.begin_fill(sha256_id(BLOB), len(BLOB), None)
        except NoSpaceNow:
            # As the cache does.
            await store.drop_partials(0)
            partial = await store.begin_fill(sha256_id(BLOB), len(BLOB), None)
        if partial is not None:
            missing = 2 - sum(partial.left)
            assert await go_on_with(partial, BLOB) == missing or torn
            await partial.commit(sha256_id(BLOB))
            await partial.close()
        blob = await store.open_blob(sha256_id(BLOB))
        assert blob is not None
        assert await _read(blob) == BLOB
        await blob.close()
        await store.drop_partials(0)
        assert store.usage().used_bytes == len(BLOB)
        assert list((root / "fills").iterdir()) == []


@contextlib.contextmanager
def memory_folder(other: Path) -> Iterator[Path]:
    """Give a folder in memory, which is fast; where there is no such thing, the other one."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield other
        return
    with tempfile.TemporaryDirectory(prefix="hotstart-", dir=memory) as path:
        yield Path(path)


def _run_and_die(root: Path, scenario: str, step: int, half: bool) -> None:
    taken = 0

    def before(system: System, name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal taken
        if taken == step:
            if half and name == "write":
                descriptor, data, offset = arguments
                system.write(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        taken += 1

    asyncio.run(SCENARIOS[scenario].run(root, Steps(before)))


def _main() -> None:
    for line in sys.stdin:
        root, scenario, step, half = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            _run_and_die(Path(root), scenario, int(step), half == "1")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _main()
