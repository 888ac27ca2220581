"""A disk store whose process is killed: at every step of everything that it does, and at any moment."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.disk import DiskStore
from tests.conformance.stores import disk_steps, endless_filler
from tests.conformance.stores.disk_steps import SCENARIOS, Steps, check_and_go_on, memory_folder
from tests.conformance.stores.suite import begin


class Crasher:
    """Runs scenarios in processes that are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill(self, root: Path, scenario: str, step: int, *, half: bool) -> None:
        """Kill a process at a step of a scenario."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{root}\t{scenario}\t{step}\t{int(half)}\n")
        self._process.stdin.flush()
        assert int(self._process.stdout.readline()) == -signal.SIGKILL


@pytest.fixture(scope="module")
def crasher() -> Iterator[Crasher]:
    """A process that forks those that are killed."""
    command = [sys.executable, str(Path(disk_steps.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Crasher(process)
        process.kill()


async def steps_of(scenario: str, root: Path) -> list[str]:
    """Return the names of a scenario's steps."""
    names: list[str] = []
    await SCENARIOS[scenario].set_up(root)
    await SCENARIOS[scenario].run(root, Steps(lambda system, name, arguments: names.append(name)))
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory: what a killed process wrote is the system's, not the disk's."""
    with memory_folder(tmp_path) as path:
        yield path


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_at_every_step(folder: Path, crasher: Crasher, scenario: str) -> None:
    """A process killed at any step leaves a store that opens, has right bytes only, and lost no space."""
    names = await steps_of(scenario, folder / "recorded")
    assert len(names) >= 7
    for step, name in enumerate(names):
        # After half an entry of the map, a piece is said to have another crc32 than it has.
        for half in (False, True) if name == "write" else (False,):
            root = folder / "store"
            await SCENARIOS[scenario].set_up(root)
            crasher.kill(root, scenario, step, half=half)
            try:
                await check_and_go_on(root, torn=half)
            except BaseException as error:
                error.add_note(f"killed at step {step} of {len(names)}: {name}")
                raise
            shutil.rmtree(root)


def kill_after(root: Path, lines: int, pause_seconds: float) -> None:
    """Run the filler, and kill it a moment after its so-manyth step."""
    command = [sys.executable, str(Path(endless_filler.__file__)), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        time.sleep(pause_seconds)
        process.kill()


@pytest.mark.parametrize(("lines", "pause_seconds"), [(1, 0), (2, 0.001), (4, 0.0), (4, 0.004), (9, 0.002)])
async def test_killed_at_any_point(tmp_path: Path, lines: int, pause_seconds: float) -> None:
    """After kill -9 the store opens again and holds whole blobs and verified pieces only."""
    for _ in range(2):
        kill_after(tmp_path, lines, pause_seconds)
        async with DiskStore(tmp_path) as store:
            for path in tmp_path.glob("blobs/*/*"):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            parts = list(tmp_path.glob("fills/*.part"))
            maps = list(tmp_path.glob("fills/*.map"))
            assert sorted(path.stem for path in parts) == sorted(path.stem for path in maps)
            assert len(parts) <= 1
            assert not list(tmp_path.glob("fills/*.tmp"))
            used = len(store.blobs()) + len(parts)
            assert store.usage().used_bytes == used * (PIECE_BYTES + 1000)
            for part in parts:
                partial = await begin(store, part.stem, PIECE_BYTES + 1000, None)
                assert any(partial.left)
                for piece, left in enumerate(list(partial.left)):
                    assert await partial.recover(piece) == left
                await partial.close()
            document = await store.read_document("org/bert/index.json")
            assert document is not None
            assert document == document[: len(document) // 10_000] * 10_000
