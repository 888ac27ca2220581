"""What a cold start costs in round trips, and that the first tensors do not wait for the last bytes."""

from __future__ import annotations

import os
from pathlib import Path

import hotstart
from tests.integration.client.conftest import Published, warm
from tests.support.models import assert_same_tensors, make_model
from tests.support.processes import Processes, Proxy
from tests.support.relay import Relay

MEBIBYTE = 1024 * 1024


def test_a_small_model_takes_two_requests_on_one_connection(
    processes: Processes, published: Published, proxy: Proxy
) -> None:
    """A fresh process opens and loads a model under 8 MiB with two requests, both on one connection."""
    code = (
        "import sys, hotstart\n"
        "found = hotstart.load('org/odd@dtypes', proxy=sys.argv[1], raw=True)\n"
        "print(found.report.tensor_bytes)\n"
    )
    with Relay(proxy.port) as relay:
        finished = processes.python(code, relay.url).wait().check()
        assert int(finished.stdout) > 0
        assert (relay.gets, relay.connections) == (2, 1)


def test_an_adopted_small_model_takes_two_as_well(processes: Processes, tmp_path: Path) -> None:
    """Where the length of the header is not known, a small file is asked for whole all the same."""
    folder = make_model(tmp_path / "origin" / "org" / "plain" / "1", mebibytes=7)
    for path in folder.rglob("*"):
        # Old enough to be whole.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    proxy = processes.serve(f"file://{tmp_path / 'origin'}", tmp_path / "store")
    with Relay(proxy.port) as relay:
        found = hotstart.load("org/plain@1", proxy=relay.url)
        assert (relay.gets, relay.connections) == (2, 1)
    assert_same_tensors(found, folder / "model.safetensors")


def test_a_connection_is_not_shared_with_a_forked_process(published: Published, proxy: Proxy) -> None:
    """A model that was opened before a fork is loaded by parent and child over connections of their own."""
    model = hotstart.open("org/bert@1", proxy=proxy.url)
    pid = os.fork()
    if pid == 0:
        # The child leaves without running what pytest has registered.
        try:
            os._exit(0 if len(model.load(compression="none")) else 2)
        finally:
            os._exit(1)
    found = model.load(compression="none")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert not found.report.retries


def test_tensors_come_while_others_are_on_their_way(proxy: Proxy, published: Published) -> None:
    """The first tensor is handed out while the last MiB cannot have been sent."""
    warm(proxy, hotstart.open("org/bert@1", proxy=proxy.url))
    with Relay(proxy.port) as relay:
        model = hotstart.open("org/bert@1", proxy=relay.url)
        size = sum(file.size for file in model.selection().files)
        relay.answers.hold_after(size - MEBIBYTE)
        seen: list[str] = []
        for name, _ in model.stream(compression="none"):
            if not seen:
                relay.answers.wait_until_held()
                before_the_last = relay.answers.passed
                relay.answers.release()
            seen.append(name)
        assert before_the_last < size
        assert sorted(seen) == sorted(model.load(compression="none"))
