"""One store on a node, mapped by functions: of another user, through a read-only mount, by many at once."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.conftest import REPOSITORY
from tests.support.deadlines import wait_until
from tests.support.models import fingerprint
from tests.support.processes import Process, Processes, Proxy

NOBODY = 65534
PAGE_KILOBYTES = mmap.PAGESIZE // 1024
REFERENCE = "org/bert@1"
# Loads, becomes the user of its second argument if there is one, loads again, tells what it saw, and holds
# its tensors until it is killed. The first load is for the imports: another user may not be able to read
# Python.
FUNCTION = """
import json, os, sys, time
import hotstart
from tests.support.models import fingerprint
fingerprint(hotstart.load(sys.argv[1], framework="numpy"))
if sys.argv[2:]:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
weights = hotstart.load(sys.argv[1], framework="numpy")
found = {"digest": fingerprint(weights), "uid": os.geteuid(), "picked": weights.report.representations}
next(iter(weights.values())).reshape(-1)[0] = 7
try:
    open(os.environ["HOTSTART_SHARED_DIR"] + "/mine", "w").close()
except OSError as error:
    found["refused"] = error.strerror
print(json.dumps(found), flush=True)
time.sleep(3600)
"""


@pytest.fixture
def node(processes: Processes, publish: Callable[..., Path], open_folder: Path) -> Proxy:
    """A proxy whose store holds a version whole."""
    origin = f"file://{open_folder}/origin"
    publish(REFERENCE, origin, environment={})
    proxy = processes.serve(origin, open_folder / "store")
    processes.run("admin", "warm", REFERENCE, "--admin", str(proxy.store)).check()
    return proxy


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="hotstart-node-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mounted(node: Proxy, open_folder: Path) -> Iterator[Path]:
    """The node's store, mounted once more and read-only, as into a pod."""
    assert os.geteuid() == 0, "only root can mount: run make test-system as root"
    place = open_folder / "mounted"
    place.mkdir()
    subprocess.run(("mount", "--bind", str(node.store), str(place)), check=True)
    try:
        subprocess.run(("mount", "-o", "remount,bind,ro", str(place)), check=True)
        yield place
    finally:
        # Lazily: a process that is just ending may still have a blob mapped.
        subprocess.run(("umount", "--lazy", str(place)), check=True)


def start(processes: Processes, node: Proxy, shared: Path, *user: str) -> Process:
    """Start a function beside a node's proxy, and wait until it has loaded."""
    environment = {
        "HOTSTART_PROXY": node.url,
        "HOTSTART_SHARED_DIR": str(shared),
        "PYTHONPATH": str(REPOSITORY),
    }
    function = processes.start(sys.executable, "-c", FUNCTION, REFERENCE, *user, environment=environment)
    function.wait_for_output("}\n")
    return function


def expected_digest(tmp_path: Path) -> str:
    return fingerprint(load_file(tmp_path / "model-0" / "model.safetensors"))


def blob(node: Proxy) -> Path:
    """Return the weights' blob."""
    return max((node.store / "blobs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


def kilobytes(function: Process, path: str) -> dict[str, int]:
    """Return what the kernel counts of a process's mapping of a file: Rss, Pss, Private_Dirty …"""
    sections = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{function.pid}/smaps").read_text(), flags=re.M
    )
    (section,) = [text for text in sections if path in text.partition("\n")[0]]
    return {name: int(count) for name, count in re.findall(r"^(\w+): +(\d+) kB$", section, re.M)}


@pytest.mark.system
def test_another_user_maps_through_a_read_only_mount(
    processes: Processes, node: Proxy, mounted: Path, tmp_path: Path
) -> None:
    """A pod of another user maps what the proxy keeps, may write to its tensors, and changes nothing."""
    function = start(processes, node, mounted, str(NOBODY))
    found = json.loads(function.stdout)
    assert found == {
        "digest": expected_digest(tmp_path),
        "uid": NOBODY,
        "picked": ["mapped"],
        "refused": "Read-only file system",
    }
    assert str(blob(node).relative_to(node.store)) in Path(f"/proc/{function.pid}/maps").read_text()
    second = json.loads(start(processes, node, mounted, str(NOBODY)).stdout)
    assert second["digest"] == found["digest"]


@pytest.mark.system
def test_what_another_user_maps_is_not_evicted(processes: Processes, node: Proxy, mounted: Path) -> None:
    """The lock of a mapping holds through the mount and across users, and ends with its process."""
    function = start(processes, node, mounted, str(NOBODY))
    command = ("admin", "evict", REFERENCE, "--admin", str(node.store))
    processes.run(*command)
    assert blob(node).stat().st_size > 1_000_000
    path = blob(node)
    function.kill()
    wait_until("the eviction", lambda: processes.run(*command).status == 0 and not path.exists())


@pytest.mark.system
def test_a_store_that_another_user_may_not_read_is_passed_over(
    processes: Processes, node: Proxy, tmp_path: Path
) -> None:
    """A function that cannot read the store, or a blob in it, has the bytes from the proxy instead."""
    assert os.geteuid() == 0, "only root can be another user: run make test-system as root"
    for folder in (blob(node).parent, node.store):
        folder.chmod(0o700)
        function = start(processes, node, node.store, str(NOBODY))
        found = json.loads(function.stdout)
        assert found["picked"] == ["identity"]
        assert found["digest"] == expected_digest(tmp_path)
        function.kill()
        folder.chmod(0o755)
    assert json.loads(start(processes, node, node.store, str(NOBODY)).stdout)["picked"] == ["mapped"]


def test_functions_share_the_pages_of_what_they_map(processes: Processes, node: Proxy) -> None:
    """Three functions that read every byte have it in memory once; only the page one writes to is its own."""
    functions = [start(processes, node, node.store) for _ in range(3)]
    for function in functions:
        count = kilobytes(function, str(blob(node)))
        assert count["Private_Dirty"] == PAGE_KILOBYTES
        assert count["Private_Clean"] == 0
        # Where the page that was written lay in a large one, the kernel unmaps the rest of that one.
        assert count["Shared_Clean"] > 1024
        assert count["Pss"] <= count["Shared_Clean"] / 3 + PAGE_KILOBYTES + 1
