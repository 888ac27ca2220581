"""Benchmarks do not rot: each is in the suite, in the docs, and has the form that the runner wants."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from benchmarks import report, suite
from benchmarks.harness.results import Results

REPOSITORY = Path(__file__).resolve().parents[3]
CI = REPOSITORY / ".ci" / "run"


def modules() -> set[str]:
    """Return the modules of benchmarks/ that measure something."""
    measures = re.compile(r"^def run\(profile: Profile, results: Results\) -> None:$", re.MULTILINE)
    return {
        path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if measures.search(path.read_text())
    }


def test_every_benchmark_is_in_the_suite() -> None:
    """What has the form of a benchmark is run by the suite, and so by bench-quick."""
    assert modules() == set(suite.NAMES)
    assert len(suite.NAMES) == len(set(suite.NAMES))


@pytest.mark.parametrize("name", suite.NAMES)
def test_the_form_of_a_benchmark(name: str) -> None:
    """Every benchmark has a one-line summary and runs a profile into results."""
    module = suite.load(name)
    assert module.SUMMARY
    assert "\n" not in module.SUMMARY
    assert list(inspect.signature(module.run).parameters) == ["profile", "results"]


@pytest.mark.parametrize("name", suite.NAMES)
def test_every_benchmark_is_described(name: str) -> None:
    """Every benchmark has a row in the list of performance.md."""
    assert re.search(rf"^\| `{name}` \| .+ \|$", report.PAGE.read_text(), re.MULTILINE)


def test_ci_runs_the_quick_suite() -> None:
    """CI runs bench-quick, which runs the profile quick of the whole suite."""
    assert re.search(r"^make .*\bbench-quick\b", CI.read_text(), re.MULTILINE)
    assert "-m benchmarks.run --profile quick" in (REPOSITORY / "Makefile").read_text()


def test_the_page_is_made_of_the_raw_numbers() -> None:
    """The figures in performance.md are those of the raw numbers beside it, or it says there are none."""
    text = report.PAGE.read_text()
    assert text == report.with_generated(text, report.generated())


def test_figures_are_of_a_full_run() -> None:
    """Only a run of the whole matrix, on code that is committed, stands in the docs."""
    if not report.RAW.exists():
        assert report.NO_FIGURES in report.PAGE.read_text()
        return
    results = Results.read(report.RAW)
    assert results.profile == "full"
    used = {cell.run for cell in results.cells}
    assert not [run for run in used if "modified" in results.runs[run]["versions"]["hotstart"]]
