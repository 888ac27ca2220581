"""What a newcomer sees first."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.e2e.conftest import REPOSITORY
from tests.support.processes import Process, Processes

DEMO = REPOSITORY / "benchmarks" / "demo.py"
DEMO_SECONDS = 50


def start(processes: Processes, folder: Path, *arguments: str) -> Process:
    """Start the demo with folder for all that it makes."""
    command = (sys.executable, str(DEMO), "--folder", str(folder), *arguments)
    return processes.start(*command, environment={"TMPDIR": str(folder)}, name="demo")


def test_the_demo_runs(processes: Processes, tmp_path: Path) -> None:
    """The demo publishes, serves, loads and compares real weights, and leaves nothing behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    finished = start(processes, folder).wait(DEMO_SECONDS).check()
    assert "in store    2 3 4 5 6" in finished.stdout
    assert not list(folder.iterdir())


def test_the_demo_cleans_up_after_ctrl_c(processes: Processes, tmp_path: Path) -> None:
    """Ctrl-C ends the demo with 130, its servers with it, and leaves nothing behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    demo = start(processes, folder, "--origin", "s3")
    demo.wait_for_output("1. Publish")
    demo.send(signal.SIGINT)
    finished = demo.wait()
    assert finished.status == 130
    assert "Traceback" not in finished.stdout + finished.stderr
    assert not list(folder.iterdir())
    # Whoever still ran would have one of its files open.
    assert not users_of(folder)


def users_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that name a folder."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines
