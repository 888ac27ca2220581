"""The disk store: the suite, and what disk layout 1 promises besides."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from hotstart_proxy.stores.base import NoSpaceNow, Store, StoreError
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.urls import InvalidStoreUrl, open_store
from tests.conformance.stores.sharing import SharingSuite
from tests.conformance.stores.suite import StoreSuite, begin, content, digests, fill, read_all, write


class TestDiskStore(SharingSuite, StoreSuite):
    """The suite on a folder."""

    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.root = tmp_path / "deep" / "store"

    def open(self, budget_bytes: int | None = None) -> AbstractAsyncContextManager[Store]:
        return DiskStore(self.root, budget_bytes)

    def place(self) -> str:
        return f"disk:{self.root}"

    def damage_blob(self, content_id: str, offset: int) -> None:
        path = blob_path(self.root, content_id)
        path.chmod(0o644)
        flip(path, offset)

    def damage_partial(self, content_id: str, offset: int) -> None:
        flip(self.root / "fills" / f"{content_id}.part", offset)

    def spoil_bookkeeping(self, content_id: str) -> None:
        flip(self.root / "fills" / f"{content_id}.map", 10)

    def remove_blob(self, content_id: str) -> None:
        blob_path(self.root, content_id).unlink()

    def stored_blobs(self) -> set[str]:
        return {path.name for path in self.root.glob("blobs/*/*")}

    def stored_partials(self) -> set[str]:
        return {path.stem for path in (self.root / "fills").iterdir()}


def blob_path(root: Path, content_id: str) -> Path:
    return root / "blobs" / content_id[:2] / content_id


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """Folders are 0755 and blobs 0444 also where the umask would hide them from other users."""
    before = os.umask(0o077)
    try:
        async with DiskStore(tmp_path / "store") as store:
            content_id = await fill(store, b"abc")
            await store.write_document("org/bert/index.json", b"{}")
    finally:
        os.umask(before)
    root = tmp_path / "store"
    for folder in (root, root / "blobs", root / "fills", root / "models", root / "models/org/bert"):
        assert mode(folder) == 0o755
    path = blob_path(root, content_id)
    assert mode(path.parent) == 0o755
    assert mode(path) == 0o444
    assert mode(root / "models/org/bert/index.json") == 0o644
    assert (root / "format").read_text() == "hotstart disk store, layout 1\n"


async def test_another_layout_is_refused(tmp_path: Path) -> None:
    """A store of another layout is not touched; the error says what it found and what to do."""
    (tmp_path / "format").write_text("hotstart disk store, layout 2\n")
    with pytest.raises(StoreError, match=r"its format is .*layout 2.*use the hotstart that wrote it"):
        await DiskStore(tmp_path).__aenter__()
    assert [path.name for path in tmp_path.iterdir()] == ["format"]


async def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    """A folder that holds something else never becomes a store."""
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match=r"holds other things \(holiday.jpg\): name an empty folder"):
        await DiskStore(tmp_path).__aenter__()
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


async def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    """A store's path that cannot be a folder is an error that names it."""
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StoreError, match=r"opening the store in .*store"):
        await DiskStore(tmp_path / "store").__aenter__()


async def test_leftovers_are_cleaned(tmp_path: Path) -> None:
    """What a crash left in fills is removed at the next start; what is not ours in blobs is not counted."""
    async with DiskStore(tmp_path):
        pass
    fills = tmp_path / "fills"
    (fills / f"{'a' * 64}.part").write_bytes(b"no map")
    (fills / f"{'b' * 64}.map").write_bytes(b"no part")
    (fills / f"{'c' * 64}.part").write_bytes(b"abc")
    (fills / f"{'c' * 64}.map").write_bytes(b"torn")
    (fills / "0123456789abcdef.tmp").write_bytes(b"a document that was never moved")
    (tmp_path / "blobs" / "ab").mkdir()
    (tmp_path / "blobs" / "ab" / "notes.txt").write_bytes(b"x")
    async with DiskStore(tmp_path) as store:
        assert list(fills.iterdir()) == []
        assert store.usage().used_bytes == 0


async def test_a_mapped_blob_is_passed_over(tmp_path: Path) -> None:
    """A blob that another process maps, under a shared lock, is not deleted and stays in the budget."""
    async with DiskStore(tmp_path) as store:
        content_id = await fill(store, b"abc")
        descriptor = os.open(blob_path(tmp_path, content_id), os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert await store.delete(content_id) is False
        assert store.usage().used_bytes == 3
        os.close(descriptor)
        assert await store.delete(content_id) is True


async def test_a_blob_can_be_mapped_while_its_fill_is_open(tmp_path: Path) -> None:
    """The lock by which a fill keeps others away does not keep readers from the committed blob."""
    async with DiskStore(tmp_path) as store:
        partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
        await write(partial, b"abc")
        await partial.commit(partial.id)
        descriptor = os.open(blob_path(tmp_path, partial.id), os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(descriptor)
        await partial.close()


async def test_space_is_reserved_at_the_beginning(tmp_path: Path) -> None:
    """A fill has its whole space on disk before its first byte arrives."""
    async with DiskStore(tmp_path) as store:
        partial = await begin(store, content(b"x" * 100_000), 100_000, None)
        found = (tmp_path / "fills" / f"{partial.id}.part").stat()
        assert found.st_size == 100_000
        assert found.st_blocks * 512 >= 100_000
        await partial.close()


async def test_the_default_budget_is_a_share_of_the_filesystem(tmp_path: Path) -> None:
    """Without a budget it is four fifths of the filesystem."""
    async with DiskStore(tmp_path) as store:
        filesystem = os.statvfs(tmp_path)
        assert store.usage().budget_bytes == int(filesystem.f_blocks * filesystem.f_frsize * 0.8)


async def test_the_filesystem_is_full(tmp_path: Path) -> None:
    """Where the disk has no room though the budget has, the fill is refused and leaves nothing."""
    filesystem = os.statvfs(tmp_path)
    huge = filesystem.f_bavail * filesystem.f_frsize + (1 << 30)
    async with DiskStore(tmp_path, 1 << 60) as store:
        with pytest.raises(NoSpaceNow, match="make room on the filesystem"):
            await begin(store, "a" * 64, huge, None)
        assert list((tmp_path / "fills").iterdir()) == []
        assert store.usage().used_bytes == 0


async def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is gone is a store error that says what was being done; nothing is counted."""
    async with DiskStore(tmp_path / "store") as store:
        (tmp_path / "store" / "fills").rmdir()
        with pytest.raises(StoreError, match=r"waiting for a turn in .*fills: No such file"):
            await begin(store, content(b"abc"), 3, None)
        with pytest.raises(StoreError, match=r"writing org/bert/index\.json"):
            await store.write_document("org/bert/index.json", b"{}")
        assert store.usage().used_bytes == 0


async def test_a_commit_cut_short_is_seen_as_what_it_was(tmp_path: Path) -> None:
    """A commit whose caller is cancelled is either done or not, and the store knows which."""
    async with DiskStore(tmp_path) as store:
        partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
        await write(partial, b"abc")
        task = asyncio.create_task(partial.commit(None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await partial.close()
        assert (content(b"abc") in store.blobs()) == blob_path(tmp_path, content(b"abc")).exists()
        if content(b"abc") not in store.blobs():
            await fill(store, b"abc")
        blob = await store.open_blob(content(b"abc"))
        assert blob is not None
        assert await read_all(blob) == b"abc"
        await blob.close()
        assert store.usage().used_bytes == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/srv/store", "expected disk:/absolute/path"),
        ("memcached://host", "expected disk:/absolute/path"),
        ("disk:relative", "an absolute path"),
        ("disk:", "an absolute path"),
    ],
)
def test_urls_that_name_no_store(url: str, reason: str) -> None:
    """A URL that names no store is refused with what was expected."""
    with pytest.raises(InvalidStoreUrl, match=reason):
        open_store(url, None)


def test_a_budget_of_nothing() -> None:
    """A budget that holds nothing is refused."""
    with pytest.raises(InvalidStoreUrl, match="holds nothing"):
        open_store("disk:/srv/store", 0)
