"""One benchmark as a command: ``python -m benchmarks.NAME --profile quick|bench|full``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeAlias

from .processes import BenchmarkFailed
from .profile import PROFILES, Profile
from .results import Results, results_path
from .tables import benchmark_section

__all__ = ["Run", "add_arguments", "main", "measure"]

Run: TypeAlias = Callable[[Profile, Results], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a single benchmark and the suite have in common."""
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick", help="how much to measure")
    parser.add_argument(
        "--results", type=Path, help="JSON file (default: benchmarks/results/MACHINE/PROFILE.json)"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure what the results hold already, too (profile full)"
    )


def main(name: str, summary: str, run: Run) -> int:
    """Run one benchmark as the command line says, print its tables, and return the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=summary)
    add_arguments(parser)
    arguments = parser.parse_args()
    profile = PROFILES[arguments.profile]
    end_in_order()
    results = Results(arguments.results or results_path(profile.name), profile.name)
    try:
        failure = measure(name, run, profile, results, again=arguments.again)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was measured is in {results.path}")
        return 130
    print(f"{benchmark_section(results, name)}\n\nraw numbers: {results.path}")
    return 0 if failure is None else 1


def measure(name: str, run: Run, profile: Profile, results: Results, *, again: bool = False) -> str | None:
    """Run one benchmark; return why it failed, or None.

    Args:
        name: of the module.
        run: its function.
        profile: how much.
        results: where to.
        again: drop what a resumable profile would keep.
    """
    results.begin(name, keep=profile.resumable and not again)
    began, cpu = time.monotonic(), _cpu_seconds()
    failure = None
    try:
        run(profile, results)
    except BenchmarkFailed as error:
        failure = str(error)
        print(f"{name}: {error}", file=sys.stderr)
        results.skip(name, "", "", f"failed: {failure.splitlines()[0]}")
    # On a busy machine CPU time says what the time would be on a quiet one.
    took = f"{time.monotonic() - began:.0f} s, {_cpu_seconds() - cpu:.0f} s of CPU"
    print(f"{name}: {took}", file=sys.stderr, flush=True)
    return failure


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of what it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: servers are ended and folders removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
