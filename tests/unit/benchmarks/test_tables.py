"""Results as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.results import Results
from benchmarks.harness.statistics import Interval
from benchmarks.harness.tables import benchmark_section, figure


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "full.json", "full", {"slug": "here"}, {"hotstart": "1"})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1234"), (99.96, "100.0"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")],
)
def test_figures(value: float, text: str) -> None:
    """A figure has three significant digits and no exponent."""
    assert figure(value) == text


def test_small_figures_have_no_exponent() -> None:
    """Microseconds in seconds are readable as well."""
    assert figure(0.0000123) == "0.000012"


def test_a_section(results: Results) -> None:
    """A section shows goals, medians with quartiles by unit, and what was skipped, with the reason."""
    for key, factor in (("1 connection", 1), ("4 connections", 2)):
        results.add("serve", key, "nginx", [2 * factor, 3 * factor, 4 * factor], "GB/s")
    results.add("serve", "1 connection", "hotstart", [2], "GB/s")
    results.add("serve", "1 connection", "hotstart", [0.5], "CPU s/GB")
    results.judge("serve", "against nginx", Interval(0.9, 0.95, 1.0), at_least=0.97, interval=True)
    results.judge("serve", "p99", Interval(6, 6, 6), at_most=5)
    results.leave_open("serve", "Unix socket", "no nginx", at_least=0.9)
    results.skip("serve", "", "varnish", "not installed")
    assert benchmark_section(results, "serve") == (
        "| goal | wanted | measured | reached |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| against nginx | ≥ 0.97 | 0.95 (0.9–1.00) | yes |\n"
        "| p99 | ≤ 5 | 6.00 | **no** |\n"
        "| Unix socket | ≥ 0.9 | not measured: no nginx | – |\n"
        "\n"
        "| GB/s | nginx | hotstart |\n"
        "| --- | ---: | ---: |\n"
        "| 1 connection | 3.00 (2.50–3.50) | 2.00 |\n"
        "| 4 connections | 6.00 (5.00–7.00) | – |\n"
        "\n"
        "| CPU s/GB | hotstart |\n"
        "| --- | ---: |\n"
        "| 1 connection | 0.5 |\n"
        "\n"
        "Skipped:\n"
        "\n"
        "- varnish: not installed"
    )


def test_many_arms_go_down(results: Results) -> None:
    """A comparison of more systems than cases has a row for each system."""
    for arm in ("a", "b", "c"):
        results.add("load", "1 GiB", arm, [1], "s")
    assert benchmark_section(results, "load").splitlines()[0] == "| s | 1 GiB |"


def test_nothing_measured(results: Results) -> None:
    """A benchmark without figures says so."""
    assert benchmark_section(results, "load") == "Nothing was measured."
