"""One disk store under several processes: one fill, one budget, and nobody hurt when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotstart.wire.pieces import PIECE_BYTES, piece_count
from hotstart_proxy.stores.base import BlobBusy, NoSpaceNow, StoreError
from hotstart_proxy.stores.claims import try_claim
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.fillmap import COMMIT_BYTE
from hotstart_proxy.stores.system import System
from tests.conformance.stores import disk_processes
from tests.conformance.stores.disk_processes import CROWD_BYTES, blob_bytes
from tests.conformance.stores.disk_steps import Steps
from tests.conformance.stores.suite import begin, content, digests, read_all, write

SIZE = 3 * PIECE_BYTES + 1000


@contextlib.contextmanager
def process(root: Path, role: str, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process on a store; it is killed in the end."""
    command = [sys.executable, str(Path(disk_processes.__file__)), str(root), role, *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def test_processes_fill_one_blob_together(tmp_path: Path) -> None:
    """Four processes write each piece of a blob once between them, and each reads the whole."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(process(tmp_path, "share", 1, SIZE)) for _ in range(4)]
        for each in running:
            assert line(each) == "open"
        for each in running:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        answers = [line(each).split() for each in running]
    assert sum(int(written) for written, _ in answers) == piece_count(SIZE)
    digest = content(blob_bytes(1, SIZE))
    assert {found for _, found in answers} == {digest}
    assert [path.name for path in tmp_path.glob("blobs/*/*")] == [digest]
    assert list((tmp_path / "fills").iterdir()) == []


async def test_killed_in_the_middle_of_a_piece(tmp_path: Path) -> None:
    """What a killed process had verified is not fetched again, and its torn piece is nobody's."""
    data = blob_bytes(2, SIZE)
    async with DiskStore(tmp_path, 1 << 40) as store:
        with process(tmp_path, "half", 2, SIZE) as other:
            assert line(other) == "half"
            partial = await begin(store, content(data), SIZE, digests(data))
            assert list(partial.left) == [True, False, False, False]
            assert await partial.refresh() == {1}
            assert list(await partial.claim([0, 1, 2])) == [2]
            await write(partial, data, range(2, 3))
        assert await partial.refresh() == set()
        assert list(await partial.claim([1, 3])) == [1, 3]
        await write(partial, data, range(1, 2))
        await write(partial, data, range(3, 4))
        assert await partial.recover(0)
        await partial.commit(content(data))
        assert hashlib.sha256(await read_all(partial)).hexdigest() == content(data)
        await partial.close()
        assert store.usage().used_bytes == SIZE


def sized(root: Path) -> Iterator[Path]:
    """Yield the files that count."""
    for place in ("blobs/*/*", "fills/*.part", "quarantine/*"):
        yield from root.glob(place)


def used_bytes(root: Path) -> int:
    """Add up what lies in a store, at a moment when nobody changes names in it."""
    with contextlib.ExitStack() as stack:
        descriptor = os.open(root / "fills", os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in sized(root))


async def test_one_budget_over_processes_that_are_killed(tmp_path: Path) -> None:
    """However many processes reserve, commit, drop and die, the store never holds more than its budget."""
    budget = 5 * CROWD_BYTES
    most = 0
    async with DiskStore(tmp_path, budget) as store:
        for generation in range(2):
            with contextlib.ExitStack() as stack:
                running = [
                    stack.enter_context(process(tmp_path, "crowd", 10 * generation + number, budget))
                    for number in range(3)
                ]
                for each in running:
                    assert line(each) == "open"
                for _ in range(150):
                    used = used_bytes(tmp_path)
                    assert used <= budget
                    most = max(most, used)
                    await asyncio.sleep(0.002)
                assert all(each.poll() is None for each in running)
        await store.refresh()
        assert store.usage().used_bytes == used_bytes(tmp_path)
        await store.drop_partials(0)
        assert list((tmp_path / "fills").glob("*.part")) == []
    assert most > budget // 2


@pytest.mark.parametrize("seed", range(3))
async def test_the_budget_holds_at_every_step(tmp_path: Path, seed: int) -> None:
    """Whatever three stores on one folder do at once, no step of any of them exceeds the budget."""
    budget = 4 * CROWD_BYTES
    sums: list[int] = []

    def before(system: System, name: str, arguments: tuple[object, ...]) -> None:
        # These are taken in turns, so what is seen before one of them is what there is.
        if name in ("rename", "unlink", "truncate"):
            sums.append(sum(path.stat().st_size for path in sized(tmp_path)))

    async def use(store: DiskStore, chance: random.Random) -> None:
        for _ in range(25):
            data = blob_bytes(chance.randrange(12), chance.randrange(CROWD_BYTES // 2, CROWD_BYTES))
            try:
                partial = await store.begin_fill(content(data), len(data), None)
            except BlobBusy:
                continue
            except NoSpaceNow:
                await store.drop_partials(0)
                for held in chance.sample(sorted(store.blobs()), min(2, len(store.blobs()))):
                    await store.delete(held)
                continue
            if partial is None:
                await store.quarantine(content(data))
                continue
            if await partial.claim([0]):
                await write(partial, data)
            if await partial.recover(0) and chance.random() < 0.7:
                await partial.commit(content(data))
            elif chance.random() < 0.5:
                await partial.discard()
            await partial.close()
            assert store.usage().used_bytes <= budget

    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(DiskStore(tmp_path, budget, Steps(before))) for _ in range(3)
        ]
        await asyncio.gather(
            *(use(store, random.Random(100 * seed + number)) for number, store in enumerate(stores * 3))
        )
        assert len(sums) > 100
        assert budget // 2 < max(sums) <= budget
        for store in stores:
            await store.drop_partials(0)
            await store.refresh()
            assert store.usage().used_bytes == used_bytes(tmp_path)


async def test_a_commit_that_is_wrong_ends_the_fill_of_all(tmp_path: Path) -> None:
    """Where the whole has another sha256, those who filled along get an error, and nothing is committed."""
    data = blob_bytes(3, PIECE_BYTES + 10)
    async with DiskStore(tmp_path) as store, DiskStore(tmp_path) as neighbour:
        one = await begin(store, "a" * 64, len(data), None)
        other = await begin(neighbour, "a" * 64, len(data), None)
        await write(one, data)
        with pytest.raises(Exception, match="expected sha256"):
            await one.commit("b" * 64)
        with pytest.raises(StoreError, match="another process has discarded it"):
            await other.refresh()
        with pytest.raises(StoreError, match="another process has discarded it"):
            await other.claim([0])
        await write(other, data)
        with pytest.raises(StoreError, match="another process has discarded it"):
            await other.commit(None)
        await one.close()
        await other.close()
        for each in (store, neighbour):
            await each.refresh()
            assert each.usage().used_bytes == 0
    assert list((tmp_path / "fills").iterdir()) == []


async def test_who_waits_for_a_commit_can_be_stopped(tmp_path: Path) -> None:
    """Waiting for another process's commit holds up nothing, and ends when the fill is closed."""
    data = blob_bytes(4, 100)
    async with DiskStore(tmp_path) as store:
        partial = await begin(store, content(data), len(data), None)
        await write(partial, data)
        other = os.open(tmp_path / "fills" / f"{partial.id}.map", os.O_RDWR)
        assert try_claim(other, COMMIT_BYTE, COMMIT_BYTE + 1)
        waiting = asyncio.create_task(partial.commit(content(data)))
        assert await store.open_blob(content(data)) is None
        await partial.close()
        with pytest.raises(StoreError, match="committing blob"):
            await waiting
        os.close(other)
