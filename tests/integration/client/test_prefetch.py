"""prefetch: at once, in threads, under imports, and not across a fork."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

import hotstart
from tests.integration.client.conftest import Published
from tests.support.models import assert_same_tensors
from tests.support.processes import Processes


def test_the_result_is_that_of_load(published: Published) -> None:
    """result gives the dict that load would have, the same one each time."""
    running = hotstart.prefetch("org/bert@1", origin=published.origin)
    found = running.result(30)
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert running.done()
    assert running.result() is found
    assert found.report.tensors == len(found)


def test_an_error_waits_for_the_result(published: Published) -> None:
    """What goes wrong in the background is raised by result, each time."""
    running = hotstart.prefetch("org/nope", origin=published.origin)
    for _ in range(2):
        with pytest.raises(hotstart.AllSourcesFailed, match="there is no such model"):
            running.result(30)
    with pytest.raises(hotstart.InvalidOption):
        hotstart.prefetch("org/bert@1", framework="jax", origin=published.origin).result(30)


def test_a_time_out_leaves_it_running(published: Published, tmp_path: Path) -> None:
    """A result that is not there in time is a TimeoutError, and may be asked for again."""
    fifo = tmp_path / "fallback"
    os.mkfifo(fifo)
    running = hotstart.prefetch("org/bert@1", fallback=str(fifo))
    with pytest.raises(hotstart.PrefetchTimeout, match=r"is not loaded after 0\.01 s") as caught:
        running.result(0.01)
    assert isinstance(caught.value, TimeoutError)
    assert not running.done()
    # Whoever opens the other end lets the thread go.
    fifo.write_bytes(b"")
    with pytest.raises(hotstart.AllSourcesFailed):
        running.result(30)


def test_cancelling_ends_it(published: Published) -> None:
    """A cancelled prefetch ends, and its result says so or is there."""
    running = hotstart.prefetch("org/bert@1", origin=published.origin)
    running.cancel()
    try:
        running.result(30)
    except hotstart.TransferAborted as error:
        assert "loading org/bert@1 was stopped" in str(error)  # noqa: PT017 - either is right


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told(published: Published) -> None:
    """In a child, a prefetch of the parent is an error that says what to do; the parent's goes on."""
    running = hotstart.prefetch("org/bert@1", origin=published.origin)
    child = os.fork()
    if child == 0:
        try:
            running.result(5)
        except hotstart.ForkedProcess as error:
            os._exit(0 if "was begun before this process was forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert running.result(30).version == "1"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_importing_and_opening_before_a_fork_is_safe(published: Published) -> None:
    """A child may load with a model that its parent opened."""
    model = hotstart.open("org/bert@1", origin=published.origin)
    tensors = len(model.load())
    child = os.fork()
    if child == 0:
        os._exit(0 if len(model.load()) == tensors else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_runs_while_a_module_is_imported(
    published: Published, processes: Processes, tmp_path: Path
) -> None:
    """A module that prefetches at its top, imports, and asks for the result while it is imported, loads."""
    (tmp_path / "function.py").write_text(
        "import hotstart\n"
        f"running = hotstart.prefetch('org/bert@1', framework='torch', origin={published.origin!r})\n"
        "import torch\n"
        "tensors = running.result(50)\n"
        "print(len(tensors), tensors['logit_scale'].dtype)\n"
    )
    pytest.importorskip("torch")
    finished = processes.python(
        "import sys; sys.path.insert(0, sys.argv[1]); import function", str(tmp_path)
    ).wait(55)
    assert finished.check().stdout == "16 torch.float32\n"


def test_its_thread_imports_all_that_a_load_needs(
    published: Published, processes: Processes, tmp_path: Path
) -> None:
    """When it is done, result imports the framework and nothing else: the load's modules are there."""
    code = (
        "import sys, time, hotstart\n"
        f"running = hotstart.prefetch('org/bert@1', origin={published.origin!r})\n"
        "while not running.done():\n"
        "    time.sleep(0.01)\n"
        "assert 'numpy' not in sys.modules\n"
        "before = set(sys.modules)\n"
        "running.result()\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('hotstart')))\n"
    )
    assert processes.python(code).wait().check().stdout == "\n"


@pytest.mark.parametrize("number", range(4))
def test_imports_of_both_threads_do_not_lock_each_other(
    published: Published, processes: Processes, number: int
) -> None:
    """A program that imports what the load imports, at the same time and in another order, loads."""
    modules = ["ssl", "http.client", "email.parser", "json", "hashlib", "dataclasses", "pathlib", "zstandard"]
    modules += ["numpy", "logging", "urllib.request", "concurrent.futures", "asyncio", "hotstart.loading"]
    running = []
    for seed in range(5):
        order = list(modules)
        random.Random(10 * number + seed).shuffle(order)
        code = (
            "import hotstart\n"
            f"running = hotstart.prefetch('org/bert@1', origin={published.origin!r})\n"
            f"import {', '.join(order)}\n"
            "print(len(running.result(50)))\n"
        )
        running.append(processes.python(code))
    assert [process.wait(55).check().stdout for process in running] == ["16\n"] * len(running)


def test_several_may_wait_for_it(published: Published, tmp_path: Path) -> None:
    """Every thread that asks for the result gets it, and none of them waits once it is there."""
    fifo = tmp_path / "fallback"
    os.mkfifo(fifo)
    running = hotstart.prefetch("org/bert@1", fallback=str(fifo), origin=published.origin)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(running.result(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.raises(hotstart.PrefetchTimeout):
        running.result(0)
    fifo.write_bytes(b"")
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert all(item is running.result(0) for item in found)


def test_an_interpreter_may_end_before_it(processes: Processes, tmp_path: Path) -> None:
    """A program that ends does not wait for its prefetch, and says nothing about it."""
    fifo = tmp_path / "fallback"
    os.mkfifo(fifo)
    finished = processes.python(
        "import sys, hotstart; hotstart.prefetch('org/bert@1', fallback=sys.argv[1])", str(fifo)
    ).wait()
    assert (finished.status, finished.stdout, finished.stderr) == (0, "", "")
