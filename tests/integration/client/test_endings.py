"""How a load ends other than well: interrupted, abandoned, with the interpreter; and what memory it takes."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import pytest

import hotstart
from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.deadlines import wait_until
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy
from tests.support.relay import Relay

MEBIBYTE = 1024 * 1024


def transfer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hotstart-transfer"]


def test_an_interrupted_load_stops_its_threads(processes: Processes, proxy: Proxy) -> None:
    """Ctrl-C in load() is a KeyboardInterrupt at once, with no thread left behind."""
    code = (
        "import hotstart, sys, threading\n"
        "model = hotstart.open('org/bert@1', proxy=sys.argv[1])\n"
        "try:\n"
        "    model.load(compression='none')\n"
        "except KeyboardInterrupt:\n"
        "    print([thread.name for thread in threading.enumerate()])\n"
    )
    with Relay(proxy.port) as relay:
        relay.answers.hold_after(5_000_000)
        process = processes.python(code, relay.url)
        relay.answers.wait_until_held()
        process.send(signal.SIGINT)
        finished = process.wait()
    assert finished.check().stdout == "['MainThread']\n"
    assert finished.stderr == ""


def test_an_interpreter_ends_while_a_load_hangs(processes: Processes, proxy: Proxy) -> None:
    """A program whose main thread is done does not wait for a stream that was left in the middle."""
    code = (
        "import hotstart, sys\n"
        "stream = hotstart.stream('org/bert@1', proxy=sys.argv[1], compression='none')\n"
        "name, tensor = next(stream)\n"
        "print(name)\n"
    )
    with Relay(proxy.port) as relay:
        relay.answers.hold_after(17_000_000)
        finished = processes.python(code, relay.url).wait()
    assert finished.status == 0
    assert finished.stdout
    assert finished.stderr == ""


def test_a_closed_stream_stops_the_rest(bert: Version) -> None:
    """Closing the iterator ends its threads, though their source would never answer."""
    gate = threading.Event()
    source = FaultySource(bert)
    stream = open_with(bert, source).stream(compression="none")
    next(stream)
    source.gate = gate
    stream.close()  # type: ignore[attr-defined]
    wait_until("the threads to end", lambda: not transfer_threads())


def test_a_stream_that_was_never_begun_fetches_nothing(bert: Version) -> None:
    """stream starts with the first tensor that is asked for."""
    source = FaultySource(bert)
    open_with(bert, source).stream()
    assert source.fetches == 0


def test_no_thread_outlives_its_load(published: Published) -> None:
    """After a load, a read and a download, all threads have ended."""
    model = hotstart.open("org/bert@2", origin=published.origin)
    model.load()
    model.read("config.json")
    wait_until("the threads to end", lambda: not transfer_threads())


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an origin with 128 MiB of weights."""
    base = tmp_path_factory.mktemp("big")
    folder = make_model(base / "model", mebibytes=128)
    (base / "origin").mkdir()

    async def run() -> None:
        async with DirectoryOrigin(base / "origin") as origin:
            await publish(origin, folder, Reference("org/big", "1"))

    asyncio.run(run())
    return f"file://{base / 'origin'}"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("wanted", "compression"),
    [
        ("all", "none"),
        ("all", "zstd"),
        ("some", "none"),
        ("some", "zstd"),
        ("all", "planes"),
        ("lazily", ""),
        ("download", ""),
    ],
)
def test_memory_beyond_the_tensors_is_bounded(
    processes: Processes, published: Published, big: str, tmp_path: Path, compression: str, wanted: str
) -> None:
    """Whatever is loaded and however it comes, at most 64 MiB are taken beyond the tensors."""
    code = (
        "import sys, pathlib, hotstart\n"
        "small, big, compression, wanted, folder = sys.argv[1:]\n"
        "def status(name):\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))\n"
        "hotstart.load('org/bert@1', origin=small, compression=compression or 'none')\n"
        "model = hotstart.open('org/big@1', origin=big)\n"
        "pathlib.Path('/proc/self/clear_refs').write_text('5')\n"
        "before = status('VmRSS')\n"
        "kept = 0\n"
        "if wanted == 'all':\n"
        "    kept = model.load(compression=compression).report.tensor_bytes\n"
        "elif wanted == 'some':\n"
        "    names = [f'encoder.layer.{n}.attention.query.bias' for n in range(4)]\n"
        "    kept = model.load(compression=compression, tensors=names).report.tensor_bytes\n"
        "elif wanted == 'lazily':\n"
        "    with hotstart.safe_open(model) as weights:\n"
        "        part = weights.get_slice('embeddings.word_embeddings.weight')\n"
        "        for row in range(0, part.get_shape()[0], 1000):\n"
        "            part[row]\n"
        "else:\n"
        "    model.download(folder)\n"
        "print(status('VmHWM') - before - kept)\n"
    )
    finished = processes.python(code, published.origin, big, compression, wanted, str(tmp_path)).wait()
    beyond = int(finished.check().stdout)
    assert beyond < 64 * MEBIBYTE, f"{beyond / MEBIBYTE:.0f} MiB"
