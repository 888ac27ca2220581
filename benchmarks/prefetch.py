"""Loading under ``import torch``: ``python -m benchmarks.prefetch``.

Three programs, each in a fresh interpreter, in turns: one that imports torch, one that loads, and one that
begins to load at its top, imports torch meanwhile, and takes the tensors then. The last one should take as
long as the longer of the other two. Times begin at the program's first line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import pagecache
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.processes import BenchmarkFailed, clean_environment
from benchmarks.harness.profile import GiB, MiB, Profile
from benchmarks.harness.publish import REFERENCE, publish, serve, warm
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.statistics import paired_ratio_interval, spread
from benchmarks.harness.weights import minilm, model_folder, tiled
from benchmarks.links import LinkUnavailable, link

__all__ = ["SUMMARY", "Cell", "longer", "matrix", "run"]

SUMMARY = "loading under import torch: what prefetch costs its caller, and how much of a load it hides"

_NAME = "prefetch"
_GIGABIT = 1_000_000_000
_IMPORT, _LOAD, _BOTH = "import torch", "load", "import torch and load"
_MOST_IMPORT_MS = 10.0
_MOST_PREFETCH_MS = 40.0
_MOST_OF_THE_LONGER = 1.1

# What the programs have in common: the clock begins before anything is imported.
_BEGIN = "import time; began = time.perf_counter(); facts = {}\n"
_PREFETCH = f"""
import hotstart
facts["import_seconds"] = time.perf_counter() - began
asked = time.perf_counter()
running = hotstart.prefetch({REFERENCE!r}, framework="torch")
facts["prefetch_seconds"] = time.perf_counter() - asked
"""
_END = """
facts["seconds"] = time.perf_counter() - began
facts["cpu_seconds"] = time.process_time()
import json, os
print(json.dumps(facts), flush=True)
# Not the interpreter's end, which is not measured.
os._exit(0)
"""
_PROGRAMS = {
    _IMPORT: f"{_BEGIN}import torch\n{_END}",
    # Not result, which would import torch.
    _LOAD: f"""{_BEGIN}{_PREFETCH}
while not running.done():
    time.sleep(0.0005)
{_END}""",
    _BOTH: f"""{_BEGIN}{_PREFETCH}
import torch
facts["imported_seconds"] = time.perf_counter() - began
report = running.result().report
facts["last_tensor_seconds"] = report.open_seconds + report.last_tensor_seconds
facts["representations"] = report.representations
{_END}""",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Weights, and the link that they come over.

    Attributes:
        size_bytes: None for the real model.
    """

    size_bytes: int | None
    bits_per_second: int

    @property
    def key(self) -> str:
        """The cell, as tables show it."""
        size = self.size_bytes
        model = (
            "MiniLM fp32" if size is None else f"{size // MiB} MiB" if size < GiB else f"{size // GiB} GiB"
        )
        return f"{model}, {self.bits_per_second / _GIGABIT:g} Gbit/s"


def matrix(profile: Profile) -> list[Cell]:
    """Return what a profile measures: loads that are shorter than the import, and longer."""
    cells = [Cell(None, _GIGABIT)]
    if profile.name == "quick":
        return cells
    cells.append(Cell(256 * MiB, _GIGABIT))
    if profile.name == "full":
        cells += [Cell(None, int(2.5 * _GIGABIT)), Cell(GiB, int(2.5 * _GIGABIT)), Cell(GiB, 10 * _GIGABIT)]
    return cells


def longer(first: list[float], second: list[float]) -> list[float]:
    """Return the greater value of every round."""
    return [max(pair) for pair in zip(first, second, strict=True)]


def run(profile: Profile, results: Results) -> None:
    """Measure the cells of a profile, and judge what was measured."""
    with workplace(_NAME) as folder:
        for number, cell in enumerate(matrix(profile)):
            if not (profile.resumable and results.done(_NAME, cell.key, _PROGRAMS)):
                try:
                    _measure(cell, folder / str(number), profile, results)
                except LinkUnavailable as error:
                    results.skip(_NAME, cell.key, "", str(error))
    _judge(profile, results)


def _measure(cell: Cell, folder: Path, profile: Profile, results: Results) -> None:
    weights = minilm() if cell.size_bytes is None else tiled(cell.size_bytes)
    origin = f"file://{folder}/origin"
    with ExitStack() as stack:
        made = stack.enter_context(link(cell.bits_per_second))
        folder.mkdir()
        publish(model_folder(folder / "model", weights), REFERENCE, origin)
        keep = ("--keep", "identity", "--keep", "zst", "--keep", "zsp")
        server = made.server
        proxy = stack.enter_context(
            serve(origin, folder / "proxy", *keep, address=server.address, prefix=tuple(server.command()))
        )
        warm(proxy)
        state = pagecache.warm(proxy.store / "blobs")
        environment = {"HOTSTART_PROXY": proxy.url}
        programs: Mapping[str, Callable[[], dict[str, object]]] = {
            arm: partial(_run, made.client.command(sys.executable, "-c", code), environment)
            for arm, code in _PROGRAMS.items()
        }
        if profile.name != "quick":
            for program in programs.values():
                # Reads the files of the packages once, and compiles what nobody has compiled yet.
                program()
        measured = interleave(programs, profile.pick(quick=1, bench=5, full=15))
    for arm, values in measured.items():
        for unit, fact, factor in _UNITS:
            figures = [float(str(value[fact])) * factor for value in values if fact in value]
            if figures:
                results.add(_NAME, cell.key, arm, figures, unit, page_cache=state)


_UNITS = (
    ("s", "seconds", 1.0),
    ("CPU s", "cpu_seconds", 1.0),
    ("ms to import hotstart", "import_seconds", 1000.0),
    ("ms until prefetch returns", "prefetch_seconds", 1000.0),
    ("s until torch is imported", "imported_seconds", 1.0),
    ("s until the last tensor has come", "last_tensor_seconds", 1.0),
)


def _run(command: list[str], environment: Mapping[str, str]) -> dict[str, object]:
    # Compiled files are written, as by pip.
    env = {**clean_environment(environment), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"a program ended with {done.returncode}:\n{done.stderr[-4000:]}")
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def _judge(profile: Profile, results: Results) -> None:
    for cell in matrix(profile):
        goal = f"{cell.key}: import and load together, of the longer of the two"
        values = [results.values(_NAME, cell.key, arm, "s") for arm in (_IMPORT, _LOAD, _BOTH)]
        imported, loaded, both = values
        if imported is None or loaded is None or both is None:
            results.leave_open(_NAME, goal, "not measured", at_most=_MOST_OF_THE_LONGER)
            continue
        ratio = paired_ratio_interval(both, longer(list(imported), list(loaded)))
        results.judge(_NAME, goal, ratio, at_most=_MOST_OF_THE_LONGER)
    for unit, text, most in (
        ("ms to import hotstart", "import hotstart", _MOST_IMPORT_MS),
        ("ms until prefetch returns", "prefetch returns after", _MOST_PREFETCH_MS),
    ):
        figures = _all(results, unit)
        if figures:
            results.judge(_NAME, text, spread(figures), at_most=most, unit="ms")
        else:
            results.leave_open(_NAME, text, "not measured", at_most=most, unit="ms")


def _all(results: Results, unit: str) -> list[float]:
    return [value for cell in results.of(_NAME) if cell.unit == unit for value in cell.values]


if __name__ == "__main__":
    raise SystemExit(main(_NAME, SUMMARY, run))
