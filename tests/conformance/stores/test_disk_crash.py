"""A disk store whose process is killed, at many points."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.disk import DiskStore
from tests.conformance.stores import endless_filler
from tests.conformance.stores.suite import begin


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
