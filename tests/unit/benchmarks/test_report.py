"""The page of figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.results import Results
from benchmarks.report import BEGIN, END, NO_FIGURES, generated, page, with_generated

MACHINE = {
    "slug": "here",
    "cpu": "A CPU",
    "cpus": 2,
    "memory_bytes": 24 * 2**30,
    "kernel": "6.1",
    "filesystem": "ext4",
}


def test_only_what_is_made_changes() -> None:
    """What stands before and after the markers stays as it was."""
    text = f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nMore.\n"
    assert with_generated(text, "new\n") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nMore.\n"


@pytest.mark.parametrize(
    "text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_page_without_its_markers(text: str) -> None:
    """Markers that are missing, in the wrong order or doubled are refused: nothing is written over."""
    with pytest.raises(ValueError, match="once each"):
        with_generated(text, "new")


def test_no_raw_numbers(tmp_path: Path) -> None:
    """Without raw numbers the page says that there are no figures."""
    assert generated(tmp_path / "results.json") == NO_FIGURES


def test_a_page(tmp_path: Path) -> None:
    """A page names machine, versions, dates and the page cache's state, and shows plots that are there."""
    path = tmp_path / "results.json"
    results = Results(path, "full", MACHINE, {"hotstart": "1.0", "nginx": "1.22"})
    results.add("serve", "1 GiB", "nginx", [1.0], "GB/s", page_cache="warm: read before")
    (tmp_path / "serve-gb-s.png").touch()
    text = generated(path)
    for expected in (
        "| CPU | A CPU, 2 usable |",
        "| memory | 24 GiB |",
        "| versions | hotstart 1.0, nginx 1.22 |",
        f"| measured | {results.runs[0]['began'][:10]} |",
        "| page cache | warm: read before |",
        "### serve\n",
        "![serve: serve-gb-s](performance/serve-gb-s.png)",
    ):
        assert expected in text
    assert "## serve\n" in page(results)
