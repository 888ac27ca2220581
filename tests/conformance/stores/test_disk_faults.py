"""A disk store on a disk that fails, or whose files somebody else has changed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hotstart.wire.digests import sha256_id
from hotstart_proxy.stores.base import NoSpaceNow, Store, StoreError
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.system import System
from tests.conformance.stores.disk_steps import (
    BLOB,
    SCENARIOS,
    Steps,
    check_and_go_on,
    go_on_with,
    memory_folder,
)
from tests.conformance.stores.suite import begin, content, digests, fill, read_all, write

DAY = 86_400.0
# Steps of which a full disk, or one without inodes, can be the end.
NEEDS_SPACE = ("open", "make_folder", "reserve", "truncate", "write", "sync", "rename")


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


class Faults:
    """Lets one step fail, the so-manyth, and says whether it came to that."""

    def __init__(self, step: int, number: int) -> None:
        self.name = ""
        self._step = step
        self._number = number
        self._taken = 0

    def __call__(self, system: System, name: str, arguments: tuple[Any, ...]) -> None:
        self._taken += 1
        if self._taken == self._step + 1:
            self.name = name
            if self._number != errno.ENOSPC or name in NEEDS_SPACE:
                raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_fault_at_every_step(tmp_path: Path, scenario: str, number: int) -> None:
    """Whatever step fails, it is a store error; nothing stays open, and the store has lost nothing."""
    with memory_folder(tmp_path) as folder:
        root = folder / "store"
        step, before = 0, open_descriptors()
        while True:
            await SCENARIOS[scenario].set_up(root)
            faults = Faults(step, number)
            with contextlib.suppress(StoreError):
                await SCENARIOS[scenario].run(root, Steps(faults))
            if not faults.name:
                break
            try:
                assert open_descriptors() == before
                await check_and_go_on(root, torn=False)
            except BaseException as error:
                error.add_note(f"{errno.errorcode[number]} at step {step}: {faults.name}")
                raise
            shutil.rmtree(root)
            step += 1
        assert step >= 7


async def test_a_store_goes_on_after_a_fault(tmp_path: Path) -> None:
    """A store that failed at any step of a fill fills the blob when the fault is over, and counts right."""
    with memory_folder(tmp_path) as folder:
        root, step = folder / "store", 0
        while True:
            faults = Faults(step, errno.EIO)
            steps = Steps(lambda *_: None)
            async with DiskStore(root, len(BLOB), steps) as store:
                steps.before = faults
                with contextlib.suppress(StoreError):
                    await SCENARIOS["first fill"].act(store)
                steps.before = lambda *_: None
                partial = await store.begin_fill(sha256_id(BLOB), len(BLOB), digests(BLOB))
                if partial is not None:
                    await go_on_with(partial, BLOB)
                    await partial.commit(sha256_id(BLOB))
                    await partial.close()
                await store.drop_partials(3600)
                assert store.usage().used_bytes == len(BLOB)
            assert list((root / "fills").iterdir()) == []
            shutil.rmtree(root)
            if not faults.name:
                break
            step += 1
        assert step >= 20


async def test_a_commit_that_fails_after_a_neighbours(tmp_path: Path) -> None:
    """Who cannot make durable what a neighbour has committed fails alone: the blob is there, and counted."""
    data = b"abc"
    steps = Steps(lambda *_: None)

    def broken(system: System, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with DiskStore(tmp_path, 5, steps) as store, DiskStore(tmp_path, 5) as neighbour:
        late = await begin(store, content(data), len(data), digests(data))
        await write(late, data)
        first = await begin(neighbour, content(data), len(data), digests(data))
        assert await first.recover(0)
        await first.commit(content(data))
        await first.close()
        await store.refresh()
        steps.before = broken
        with pytest.raises(StoreError, match="committing blob"):
            await late.commit(content(data))
        steps.before = lambda *_: None
        await late.close()
        assert (dict(store.blobs()), store.usage().used_bytes) == ({content(data): 3}, 3)


async def test_giving_up_what_a_neighbour_has_set_aside(tmp_path: Path) -> None:
    """A blob in quarantine stays in the budget when a late share in its fill is discarded."""
    data = b"abc"
    async with DiskStore(tmp_path) as store, DiskStore(tmp_path) as neighbour:
        late = await begin(store, content(data), len(data), None)
        await fill(neighbour, data)
        await store.refresh()
        await store.quarantine(content(data))
        await late.discard()
        await late.close()
        assert (dict(store.blobs()), store.usage().used_bytes) == ({}, 3)
        await store.drop_partials(0)
        assert store.usage().used_bytes == 0


async def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    """ENOSPC is an error of its own kind, that says what to do."""
    steps = Steps(lambda *_: None)
    async with DiskStore(tmp_path, 1 << 40, steps) as store:

        def full(system: System, name: str, arguments: tuple[Any, ...]) -> None:
            if name == "reserve":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        steps.before = full
        with pytest.raises(NoSpaceNow, match="lower the budget, or make room on the filesystem"):
            await begin(store, "a" * 64, 1000, None)
        assert list((tmp_path / "fills").iterdir()) == []
        assert store.usage().used_bytes == 0


# What somebody else did to the files


def flip(path: Path, offset: int) -> None:
    """Flip a bit of a file."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)
    path.chmod(mode)


def cut(path: Path) -> None:
    """Cut the second half of a file off."""
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


async def with_a_partial(store: Store) -> str:
    """Leave a partial blob of two pieces, the first of which is verified."""
    partial = await begin(store, content(BLOB), len(BLOB), digests(BLOB))
    await write(partial, BLOB, range(1))
    await partial.close()
    return partial.id


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".part", lambda path: flip(path, 5)),
        (".part", cut),
        (".part", Path.unlink),
        (".map", lambda path: flip(path, 3)),
        (".map", lambda path: flip(path, 20)),
        (".map", lambda path: flip(path, 53)),
        (".map", lambda path: flip(path, 56)),
        (".map", cut),
        (".map", Path.unlink),
    ],
)
@pytest.mark.parametrize("running", [False, True])
async def test_damage_to_a_partial_blob(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None], running: bool
) -> None:
    """Whatever happens to a part or a map, under a running store or not, a fill ends with right bytes."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(DiskStore(tmp_path, len(BLOB)))
        damage(tmp_path / "fills" / (await with_a_partial(store) + suffix))
        if not running:
            await stack.aclose()
            store = await stack.enter_async_context(DiskStore(tmp_path, len(BLOB)))
        partial = await begin(store, content(BLOB), len(BLOB), digests(BLOB))
        await go_on_with(partial, BLOB)
        await partial.commit(content(BLOB))
        await partial.close()
        blob = await store.open_blob(content(BLOB))
        assert blob is not None
        assert await read_all(blob) == BLOB
        await blob.close()
        assert store.usage().used_bytes == len(BLOB)
    assert list((tmp_path / "fills").iterdir()) == []


@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
async def test_damage_to_a_blob_of_a_running_store(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A blob that was cut or removed is seen to be absent or of another size, and can be filled anew."""
    async with DiskStore(tmp_path, len(BLOB)) as store:
        content_id = await fill(store, BLOB)
        path = tmp_path / "blobs" / content_id[:2] / content_id
        path.chmod(0o644)
        damage(path)
        blob = await store.open_blob(content_id)
        if blob is not None:
            assert blob.size < len(BLOB)
            await blob.close()
            assert await store.quarantine(content_id)
        await store.drop_partials(0)
        assert store.usage().used_bytes == 0
        await fill(store, BLOB)


@pytest.mark.parametrize("damage", [lambda path: flip(path, 0), cut])
async def test_a_damaged_format_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A running store serves on without its format; opened anew, it is refused untouched if it is damaged."""
    async with DiskStore(tmp_path) as store:
        content_id = await fill(store, b"abc")
        damage(tmp_path / "format")
        blob = await store.open_blob(content_id)
        assert blob is not None
        assert await read_all(blob) == b"abc"
        await blob.close()
    with pytest.raises(StoreError, match="its format is"):
        await DiskStore(tmp_path).__aenter__()
    assert (tmp_path / "blobs" / content_id[:2] / content_id).read_bytes() == b"abc"


async def test_a_missing_format_is_written_again(tmp_path: Path) -> None:
    """A store whose format was removed is a store again, with all that it held."""
    async with DiskStore(tmp_path) as store:
        content_id = await fill(store, b"abc")
        (tmp_path / "format").unlink()
    async with DiskStore(tmp_path) as store:
        assert dict(store.blobs()) == {content_id: 3}
    assert (tmp_path / "format").read_text() == "hotstart disk store, layout 1\n"


@pytest.mark.parametrize("folder", ["blobs", "fills", "models", "quarantine"])
async def test_a_folder_that_was_removed(tmp_path: Path, folder: str) -> None:
    """A store one of whose folders is gone fails or does without, and is whole when it is opened again."""
    async with DiskStore(tmp_path) as store:
        content_id = await fill(store, b"abc")
        shutil.rmtree(tmp_path / folder)
        with contextlib.suppress(StoreError):
            await fill(store, b"def")
            await store.write_document("org/bert/index.json", b"{}")
            await store.quarantine(content_id)
    async with DiskStore(tmp_path) as store:
        await fill(store, b"xyz")
        await store.refresh()
        sizes = [path.stat().st_size for path in tmp_path.glob("blobs/*/*")]
        aside = [path.stat().st_size for path in tmp_path.glob("quarantine/*")]
        assert store.usage().used_bytes == sum(sizes) + sum(aside)


# Clocks


class Clock(System):
    """A clock that is set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall_seconds(self) -> float:
        return super().wall_seconds() + self.ahead


@pytest.mark.parametrize("days", [-400, -3, 3, 400])
async def test_a_clock_that_jumps(tmp_path: Path, days: int) -> None:
    """A clock set by days under a running store drops no partial blob, hides no blob, and loses no count."""
    clock = Clock()
    async with DiskStore(tmp_path, 3 * len(BLOB), clock) as store:
        left = await with_a_partial(store)
        held = await fill(store, b"abc")
        clock.ahead = days * DAY
        assert await store.drop_partials(2 * DAY) == 0
        async with DiskStore(tmp_path) as neighbour:
            await fill(neighbour, b"new")
            assert await neighbour.delete(held)
        await store.refresh()
        assert dict(store.blobs()) == {content(b"new"): 3}
        assert store.usage().used_bytes == len(BLOB) + 3
        partial = await begin(store, left, len(BLOB), digests(BLOB))
        assert list(partial.left) == [True, False]
        await partial.close()


async def test_what_is_dated_in_the_future_gives_room(tmp_path: Path) -> None:
    """A partial blob that a wrong clock has dated years ahead is dropped where room is needed."""
    async with DiskStore(tmp_path, len(BLOB)) as store:
        left = await with_a_partial(store)
        ahead = Clock().wall_seconds() + 3650 * DAY
        os.utime(tmp_path / "fills" / f"{left}.part", (ahead, ahead))
        assert await store.drop_partials(DAY) == 0
        assert await store.drop_partials(0) == len(BLOB)


# Quarantine


async def test_quarantine_is_in_the_budget_and_goes_in_time(tmp_path: Path) -> None:
    """A damaged blob is kept aside, counted, as long as a partial one, and is dropped for want of room."""
    clock = Clock()
    async with DiskStore(tmp_path, 5, clock) as store:
        content_id = await fill(store, b"abc")
        flip(tmp_path / "blobs" / content_id[:2] / content_id, 0)
        assert await store.quarantine(content_id)
        assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [content_id]
        assert (store.usage().used_bytes, store.usage().blobs) == (3, 0)
        with pytest.raises(NoSpaceNow):
            await begin(store, content(b"abc"), 3, None)
        assert await store.drop_partials(3600) == 0
    async with DiskStore(tmp_path, 5) as store:
        assert store.usage().used_bytes == 3
        assert await store.drop_partials(0) == 3
        assert list((tmp_path / "quarantine").iterdir()) == []
        await fill(store, b"abc")


async def test_quarantine_holds_one_copy(tmp_path: Path) -> None:
    """A blob that is damaged again takes the place of the one before in quarantine."""
    async with DiskStore(tmp_path) as store:
        for _ in range(2):
            content_id = await fill(store, b"abc")
            assert await store.quarantine(content_id)
        await store.refresh()
        assert store.usage().used_bytes == 3


async def test_what_is_dropped_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What opening a store or housekeeping removes stands in the log, with the reason."""
    async with DiskStore(tmp_path) as store:
        await with_a_partial(store)
    (tmp_path / "fills" / f"{'b' * 64}.map").write_bytes(b"")
    (tmp_path / "fills" / f"{'c' * 64}.part").write_bytes(b"abc")
    (tmp_path / "fills" / "0123456789abcdef.tmp").write_bytes(b"")
    async with DiskStore(tmp_path) as store:
        await store.drop_partials(0)
    said = [vars(record)["fields"]["what"] for record in caplog.records]
    assert said == [
        "fills/0123456789abcdef.tmp: a document that was never moved to its place",
        f"fills/{'b' * 64}.map: the part that it belongs to is gone",
        f"fills/{'c' * 64}.part: no map says what is in it",
        f"fills/{content(BLOB)}.part: nobody has gone on with it",
    ]
