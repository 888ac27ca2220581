"""Raw numbers in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.harness.results import Results
from benchmarks.harness.statistics import Interval

MACHINE = {"slug": "here", "cpus": 2}
VERSIONS = {"hotstart": "1", "nginx": "1.22"}


def results(path: Path, profile: str = "full", versions: Mapping[str, str] = VERSIONS) -> Results:
    """Begin a run on a machine called here."""
    return Results(path, profile, MACHINE, versions)


def test_every_figure_is_written_at_once(tmp_path: Path) -> None:
    """What was added stands in the file, raw, with its facts, and nothing else lies beside it."""
    path = tmp_path / "deep" / "full.json"
    results(path).add("serve", "1 GiB", "nginx", [1, 2.5], "GB/s", page_cache="warm")
    document = json.loads(path.read_text())
    assert document["cells"] == [
        {
            "benchmark": "serve",
            "key": "1 GiB",
            "arm": "nginx",
            "values": [1.0, 2.5],
            "unit": "GB/s",
            "facts": {"page_cache": "warm"},
            "run": 0,
        }
    ]
    assert document["machine"] == MACHINE
    assert document["runs"][0]["versions"] == VERSIONS
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    """A cell is known by benchmark, key, arm and unit."""
    found = results(tmp_path / "full.json")
    found.add("serve", "a", "nginx", [1], "GB/s")
    found.add("serve", "a", "nginx", [2], "CPU s/GB")
    found.add("serve", "a", "nginx", [3], "GB/s")
    assert found.values("serve", "a", "nginx", "GB/s") == (3.0,)
    assert found.values("serve", "a", "nginx", "CPU s/GB") == (2.0,)
    assert found.values("serve", "b", "nginx", "GB/s") is None
    assert len(found.of("serve")) == 2


def test_a_resumed_run_keeps_what_is_there(tmp_path: Path) -> None:
    """A comparison is done once all of its arms have figures of these versions."""
    path = tmp_path / "full.json"
    first = results(path)
    first.begin("serve", keep=True)
    first.add("serve", "a", "nginx", [1], "GB/s")
    first.add("serve", "a", "hotstart", [1], "GB/s")
    first.add("serve", "b", "nginx", [1], "GB/s")
    second = results(path)
    second.begin("serve", keep=True)
    assert second.done("serve", "a", ["nginx", "hotstart"])
    assert not second.done("serve", "b", ["nginx", "hotstart"])
    assert not second.done("load", "a", ["nginx"])


@pytest.mark.parametrize("keep", [True, False])
def test_what_does_not_hold_any_more_is_dropped(tmp_path: Path, keep: bool) -> None:
    """Figures of other versions, and all of a profile that is not resumed, are measured again."""
    path = tmp_path / "full.json"
    first = results(path)
    first.add("serve", "a", "nginx", [1], "GB/s")
    first.add("load", "a", "nginx", [1], "s")
    again = results(path, versions={"hotstart": "2"} if keep else VERSIONS)
    again.begin("serve", keep=keep)
    assert not again.of("serve")
    assert again.of("load")


def test_figures_of_another_machine_are_dropped(tmp_path: Path) -> None:
    """A file that was copied from another machine is begun anew, and so is that of another profile."""
    path = tmp_path / "full.json"
    results(path).add("serve", "a", "nginx", [1], "GB/s")
    assert not Results(path, "full", {"slug": "there"}, VERSIONS).cells
    assert not results(path, "bench").cells


def test_skips_and_goals_are_of_the_last_run(tmp_path: Path) -> None:
    """What was skipped and how goals stand is said anew by every run."""
    path = tmp_path / "full.json"
    first = results(path)
    first.skip("serve", "", "nginx", "nginx is not installed")
    first.skip("serve", "", "nginx", "nginx is not installed")
    first.judge("serve", "against nginx", Interval(0.9, 1, 1.1), at_least=0.97)
    assert len(first.skips) == 1
    second = results(path)
    assert (second.skips, second.goals) == (first.skips, first.goals)
    second.begin("serve", keep=True)
    assert not second.skips
    assert not second.goals


def test_goals_are_judged_by_the_middle_or_by_the_interval(tmp_path: Path) -> None:
    """A goal for an interval is reached if the interval reaches it; any other by the middle."""
    found = results(tmp_path / "full.json")
    measured = Interval(0.8, 0.9, 1.0)
    found.judge("serve", "middle", measured, at_least=0.97)
    found.judge("serve", "interval", measured, at_least=0.97, interval=True)
    found.judge("serve", "at most", measured, at_most=0.85)
    found.judge("serve", "interval at most", measured, at_most=0.85, interval=True)
    found.leave_open("serve", "open", "nginx is not installed", at_most=5, unit="ms")
    assert [goal.reached for goal in found.goals] == [False, True, False, True, None]
    assert [goal.wanted for goal in found.goals] == ["≥ 0.97", "≥ 0.97", "≤ 0.85", "≤ 0.85", "≤ 5 ms"]


def test_the_quick_profile_judges_nothing(tmp_path: Path) -> None:
    """In the profile of CI a goal is shown, and neither reached nor missed."""
    found = results(tmp_path / "quick.json", "quick")
    found.judge("serve", "against nginx", Interval(0.1, 0.1, 0.1), at_least=0.97)
    assert found.goals[0].reached is None


def test_read_begins_no_run(tmp_path: Path) -> None:
    """Results can be read to be shown, and are what was written."""
    path = tmp_path / "full.json"
    written = results(path)
    written.add("serve", "a", "nginx", [1], "GB/s", connections=4)
    written.judge("serve", "against nginx", Interval(0.9, 1, 1.1), at_least=0.97)
    found = Results.read(path)
    assert (found.cells, found.goals, found.runs) == (written.cells, written.goals, written.runs)
