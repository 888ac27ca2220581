"""What a load takes beyond its tensors, however large the largest of them is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.support.processes import Processes

MEBIBYTE = 1024 * 1024
TENSOR_BYTES = 256 * MEBIBYTE


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an origin with one tensor of 256 MiB, of which a twin saves a little."""
    base = tmp_path_factory.mktemp("wide")
    noise = numpy.random.default_rng(3).normal(size=4 * MEBIBYTE // 4).astype(numpy.float32)
    (base / "model").mkdir()
    save_file({"weight": numpy.tile(noise, TENSOR_BYTES // noise.nbytes)}, base / "model/model.safetensors")
    (base / "origin").mkdir()

    async def run() -> None:
        async with DirectoryOrigin(base / "origin") as origin:
            await publish(origin, base / "model", Reference("org/wide", "1"))

    asyncio.run(run())
    return f"file://{base / 'origin'}"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_a_large_tensor_takes_its_own_size_and_little_more(
    processes: Processes, wide: str, tmp_path: Path, compression: str
) -> None:
    """Anonymous and shared memory peak at most 64 MiB above the tensor, whatever it comes as from a proxy."""
    proxy = processes.serve(wide, tmp_path / "store")
    code = (
        "import sys, threading, hotstart, numpy, zstandard\n"
        "url, compression = sys.argv[1:]\n"
        "def memory():\n"
        "    with open('/proc/self/status') as file:\n"
        "        lines = [line.split() for line in file]\n"
        "    return sum(int(line[1]) * 1024 for line in lines if line[0] in ('RssAnon:', 'RssShmem:'))\n"
        "peak, is_over = 0, threading.Event()\n"
        "def watch():\n"
        "    global peak\n"
        "    while not is_over.wait(0.005):\n"
        "        peak = max(peak, memory())\n"
        "model = hotstart.open('org/wide@1', proxy=url)\n"
        "before = memory()\n"
        "thread = threading.Thread(target=watch)\n"
        "thread.start()\n"
        "found = model.load(compression=compression, verify='pieces')\n"
        "is_over.set()\n"
        "thread.join()\n"
        "assert found.report.representations == ('identity' if compression == 'none' else compression,)\n"
        "print(max(peak, memory()) - before - found.report.tensor_bytes)\n"
    )
    finished = processes.python(code, proxy.url, compression).wait().check()
    beyond = int(finished.stdout)
    # Less than nothing would mean that the watcher saw nothing.
    assert -MEBIBYTE < beyond <= 64 * MEBIBYTE, f"{beyond / MEBIBYTE:.0f} MiB"
