"""A disk store on filesystems that are full, out of inodes, or read-only; only root can mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.base import NoSpaceNow, PartialBlob, StoreError
from hotstart_proxy.stores.disk import DiskStore
from tests.conformance.stores.suite import begin, content, digests, fill, read_all, write

pytestmark = pytest.mark.system

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with the options that are given."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a filesystem")
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)), check=True)
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def remount(folder: Path, how: str) -> None:
    """Make a mounted filesystem ``ro`` or ``rw``."""
    subprocess.run(("mount", "-o", f"remount,{how}", str(folder)), check=True)


def names(folder: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_a_filesystem_that_is_full(mount: Mount) -> None:
    """A fill that the filesystem has no room for is refused before its first byte, and leaves nothing."""
    folder = mount("size=6m")
    data = os.urandom(PIECE_BYTES + 1000)
    async with DiskStore(folder, 1 << 40) as store:
        held = await fill(store, data)
        before = names(folder)
        for _ in range(3):
            with pytest.raises(NoSpaceNow, match="make room on the filesystem"):
                await begin(store, "a" * 64, PIECE_BYTES, None)
        assert names(folder) == before
        assert store.usage().used_bytes == len(data)
        assert await store.delete(held)
        await fill(store, os.urandom(PIECE_BYTES))


async def test_the_default_budget_stays_within_the_filesystem(mount: Mount) -> None:
    """Without a budget, a small filesystem is filled to four fifths, fills included, and no further."""
    folder = mount("size=10m")
    size = 1024 * 1024
    async with DiskStore(folder) as store:
        assert store.usage().budget_bytes == 8 * size
        partials = [await begin(store, f"{number:064x}", size, None) for number in range(8)]
        with pytest.raises(NoSpaceNow, match="8388608 of 8388608 bytes are in use"):
            await begin(store, "a" * 64, 1, None)
        for partial in partials:
            await partial.close()


async def try_to_fill(store: DiskStore, data: bytes) -> str:
    """Fill a blob; where that fails, give it up as a cache does."""
    partial = await begin(store, content(data), len(data), digests(data))
    try:
        await write(partial, data)
        await partial.commit(partial.id)
    finally:
        await partial.discard()
        await partial.close()
    return partial.id


async def test_a_full_inode_table(mount: Mount) -> None:
    """Where no file can be made, a fill is refused as on a full disk, leaves nothing, and room helps."""
    folder = mount("size=10m,nr_inodes=24")
    async with DiskStore(folder) as store:
        held: list[str] = []
        while len(held) < 24:
            try:
                held.append(await try_to_fill(store, bytes([len(held)])))
            except NoSpaceNow:
                break
        assert 3 < len(held) < 24
        before = names(folder)
        for data in (b"one more", bytes(100)):
            with pytest.raises(NoSpaceNow):
                await try_to_fill(store, data)
        assert names(folder) == before
        assert store.usage().used_bytes == len(held)
        # A blob's folder stays, its file does not.
        for content_id in held[:2]:
            assert await store.delete(content_id)
        assert await try_to_fill(store, bytes([0])) == held[0]


async def test_a_filesystem_that_becomes_read_only(mount: Mount) -> None:
    """A store whose filesystem is remounted read-only serves on, refuses the rest, and goes on afterwards."""
    folder = mount("size=20m")
    data = os.urandom(PIECE_BYTES + 1000)
    async with DiskStore(folder) as store:
        content_id = await fill(store, data)
        partial = await begin(store, content(b"x" * 9), 9, digests(b"x" * 9))
        await write(partial, b"x" * 9)
        await partial.close()
        before = names(folder)
        remount(folder, "ro")
        blob = await store.open_blob(content_id)
        assert blob is not None
        assert await read_all(blob) == data
        await blob.close()
        tries: list[Callable[[], object]] = [
            lambda: store.begin_fill("a" * 64, 3, None),
            lambda: store.begin_fill(content(b"x" * 9), 9, None),
            lambda: store.write_document("org/bert/index.json", b"{}"),
            lambda: store.delete(content_id),
            lambda: store.quarantine(content_id),
            lambda: store.drop_partials(0),
        ]
        for attempt in tries:
            with pytest.raises(StoreError, match="Read-only file system"):
                await attempt()  # type: ignore[misc]
        assert store.usage().used_bytes == len(data) + 9
        # Also one that starts now serves what is there.
        async with DiskStore(folder) as other:
            blob = await other.open_blob(content_id)
            assert blob is not None
            await blob.close()
        assert names(folder) == before
        remount(folder, "rw")
        await fill(store, b"abc")
        resumed = await begin(store, content(b"x" * 9), 9, digests(b"x" * 9))
        assert isinstance(resumed, PartialBlob)
        assert list(resumed.left) == [True]
        await resumed.close()
        assert store.usage().used_bytes == len(data) + 9 + 3
