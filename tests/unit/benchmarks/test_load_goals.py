"""The goals of loading, over figures that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.profile import GiB, MiB
from benchmarks.harness.results import Results
from benchmarks.load import Cell
from benchmarks.load_goals import BEYOND, READ, RETURNED, judge

HOST = Cell("fp32", GiB, None, 3)
LINK = Cell("bf16", GiB, 2_500_000_000, 3)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.json", "bench", machine={"slug": "made-up"}, versions={})


def _measured(results: Results, cell: Cell, unit: str, **seconds: float) -> None:
    names = {
        "shared": "hotstart, shared volume",
        "unix": "hotstart, Unix socket",
        "auto": "hotstart, TCP",
        "plain": "hotstart, TCP, plain",
        "planes": "hotstart, TCP, planes",
        "nginx": "nginx + safetensors, file",
        "memory": "nginx + safetensors, memory",
        "boto3": "boto3 + safetensors",
        "mmap": "limit: mmap of a local file",
        "line": "limit: line",
    }
    for name, value in seconds.items():
        results.add("load", cell.key, names[name], [value] * 3, unit)


def test_a_host_where_all_is_reached(results: Results) -> None:
    """Ratios are taken against the faster way of nginx and the fastest peer, differences in milliseconds."""
    _measured(results, HOST, RETURNED, shared=0.005, unix=0.2, mmap=0.004, nginx=0.3, memory=0.5, boto3=0.27)
    _measured(results, HOST, READ, shared=0.1, unix=0.2, mmap=0.1, nginx=0.4, memory=0.5, boto3=0.5)
    _measured(results, HOST, BEYOND, shared=0.1, unix=10, auto=20)
    judge(results, [HOST])
    assert len(results.goals) == 9
    assert all(goal.reached for goal in results.goals)
    found = {goal.text: goal.measured.mid for goal in results.goals if goal.measured}
    assert (
        found[
            f"{HOST.key}: hotstart, shared volume, times as fast as nginx + safetensors, to returned tensors"
        ]
        == 60
    )
    unix = f"{HOST.key}: hotstart, Unix socket, times as fast as the best peer, to returned tensors"
    assert found[unix] == pytest.approx(1.35)
    more = f"{HOST.key}: hotstart, shared volume, more than a plain mmap, to returned tensors"
    assert found[more] == pytest.approx(1)


def test_what_is_missed_is_said(results: Results) -> None:
    """A ratio below its goal, a difference and memory above it are not reached."""
    _measured(results, HOST, RETURNED, shared=0.05, unix=0.3, mmap=0.004, nginx=0.3)
    _measured(results, HOST, READ, shared=0.15, unix=0.35, mmap=0.1, nginx=0.4)
    _measured(results, HOST, BEYOND, shared=65, unix=10, auto=20)
    judge(results, [HOST])
    missed = [goal.text for goal in results.goals if goal.reached is False]
    assert len(missed) == 7


def test_what_was_not_measured_stays_open(results: Results) -> None:
    """Without peers and limits the goals stand there with the reason."""
    _measured(results, LINK, RETURNED, auto=1, plain=1, planes=0.7)
    judge(results, [HOST, LINK])
    assert all(goal.measured is None and goal.reached is None and goal.reason for goal in results.goals)
    assert {goal.wanted for goal in results.goals} >= {"≥ 10", "≤ 64 MiB", "≥ 0.97", "≥ 1.35"}


def test_links_have_goals_of_their_own(results: Results) -> None:
    """Plain and planes are judged against the line, what hotstart picks against the best peer."""
    _measured(results, LINK, RETURNED, line=1.0, plain=1.02, planes=0.73, auto=0.73, boto3=1.1, nginx=1.05)
    judge(results, [LINK])
    assert [goal.reached for goal in results.goals] == [True, True, True]
    assert [goal.wanted for goal in results.goals] == ["≥ 0.97", "≥ 1.35", "≥ 1"]


def test_small_files_are_not_judged(results: Results) -> None:
    """The real model is reported; its few milliseconds are no goal."""
    judge(results, [Cell("fp32", None, None, 3), Cell("fp32", 64 * MiB, 1_000_000_000, 3)])
    assert results.goals == []
