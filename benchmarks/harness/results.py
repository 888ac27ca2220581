"""Raw numbers as JSON, written after every measurement, so that nothing measured is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import package_versions, this_machine
from .peers import peer_versions
from .statistics import Interval

__all__ = ["Cell", "Goal", "Results", "Skip", "all_versions", "results_path"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of one arm.

    Attributes:
        benchmark: name of the module.
        key: what was measured, as a row of a table says it: ``1 GiB, 4 connections, TCP``.
        arm: of whom: ``hotstart``, ``nginx``.
        values: one a round, in the order of rounds.
        unit: of the values. One key and arm may have several units.
        facts: what else belongs to it, ``page_cache`` among them; JSON.
        run: place in ``Results.runs``.
    """

    benchmark: str
    key: str
    arm: str
    values: tuple[float, ...]
    unit: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: int = 0


@dataclass(frozen=True, slots=True)
class Skip:
    """What was not measured, and why. An empty key stands for all keys of the arm."""

    benchmark: str
    key: str
    arm: str
    reason: str


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal beside what was measured.

    Attributes:
        text: what is compared, as a row of a table says it.
        wanted: ``≥ 0.97`` or ``≤ 64 MiB``.
        measured: None where nothing could be compared.
        reached: None where it is not judged.
        reason: why it was not measured.
    """

    benchmark: str
    text: str
    wanted: str
    measured: Interval | None
    reached: bool | None
    reason: str = ""


def all_versions() -> dict[str, str]:
    """Return the versions of all that takes part, the peers' as ``peers: NAME``."""
    return {**package_versions(), **{f"peers: {name}": text for name, text in peer_versions().items()}}


def results_path(profile: str) -> Path:
    """Return where this machine's results of a profile lie."""
    return Path(__file__).resolve().parents[1] / "results" / this_machine().slug / f"{profile}.json"


class Results:
    """The results of one profile on one machine; every change is written at once, atomically.

    Attributes:
        path: of the JSON file.
        profile: name of the profile.
        machine: of ``Machine.as_dict``.
        runs: when each run that has figures here began, and the versions it ran with.
        cells, skips, goals: as they came.
    """

    def __init__(
        self,
        path: Path,
        profile: str,
        machine: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Take up what stands in path, if it is there and of the same profile, and begin a run.

        Args:
            path: of the JSON file; folders are created.
            profile: name of the profile.
            machine: default this one. Figures of another machine are dropped.
            versions: default all that is installed here.
        """
        self.path = path
        self.profile = profile
        self.machine: dict[str, Any] = dict(this_machine().as_dict() if machine is None else machine)
        self.runs: list[dict[str, Any]] = []
        self.cells: list[Cell] = []
        self.skips: list[Skip] = []
        self.goals: list[Goal] = []
        versions = all_versions() if versions is None else versions
        if path.exists():
            self._take_up(json.loads(path.read_text()))
        self.runs.append({"began": datetime.now(UTC).isoformat(timespec="seconds"), "versions": {**versions}})

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what stands in a file, to be shown; begin no run.

        Raises:
            OSError, ValueError: there is no such file, or it holds something else.
        """
        document = json.loads(path.read_text())
        results = cls.__new__(cls)
        results.path, results.profile, results.machine = path, document["profile"], document["machine"]
        results._take_up(document)
        return results

    def _take_up(self, document: Mapping[str, Any]) -> None:
        self.runs, self.cells, self.skips, self.goals = [], [], [], []
        same = (document["format"], document["profile"], document["machine"]["slug"])
        if same != (_FORMAT, self.profile, self.machine["slug"]):
            return
        self.runs = document["runs"]
        self.cells = [Cell(**{**cell, "values": tuple(cell["values"])}) for cell in document["cells"]]
        self.skips = [Skip(**skip) for skip in document["skips"]]
        for goal in document["goals"]:
            measured = goal["measured"] and Interval(**goal["measured"])
            self.goals.append(Goal(**{**goal, "measured": measured}))

    # Writing

    def begin(self, benchmark: str, *, keep: bool) -> None:
        """Begin a benchmark: forget its goals and skips, and unless keep, or of other versions, its cells."""
        kept = self._current_runs() if keep else set()
        self.cells = [cell for cell in self.cells if cell.benchmark != benchmark or cell.run in kept]
        self.skips = [skip for skip in self.skips if skip.benchmark != benchmark]
        self.goals = [goal for goal in self.goals if goal.benchmark != benchmark]
        self._write()

    def _current_runs(self) -> set[int]:
        """Return the runs with the versions of this one."""
        versions = self.runs[-1]["versions"]
        return {place for place, run in enumerate(self.runs) if run["versions"] == versions}

    def add(
        self, benchmark: str, key: str, arm: str, values: Iterable[float], unit: str, **facts: Any
    ) -> None:
        """Keep what was measured; it takes the place of what stood there for the same arm and unit.

        Args:
            benchmark: name of the module.
            key: what was measured, as a row of a table says it.
            arm: of whom.
            values: one a round.
            unit: one arm may have several.
            facts: JSON; ``page_cache`` (see pagecache.py) among them where it matters.
        """
        self.cells = [
            cell
            for cell in self.cells
            if (cell.benchmark, cell.key, cell.arm, cell.unit) != (benchmark, key, arm, unit)
        ]
        run = len(self.runs) - 1
        self.cells.append(
            Cell(benchmark, key, arm, tuple(float(value) for value in values), unit, facts, run)
        )
        self._write()

    def skip(self, benchmark: str, key: str, arm: str, reason: str) -> None:
        """Say what is not measured, and why."""
        skip = Skip(benchmark, key, arm, reason)
        if skip not in self.skips:
            self.skips.append(skip)
            self._write()

    def judge(
        self,
        benchmark: str,
        text: str,
        measured: Interval,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        unit: str = "",
        interval: bool = False,
    ) -> None:
        """Keep a goal beside what was measured; in the profile ``quick`` nothing is judged.

        Args:
            benchmark: name of the module.
            text: what is compared, as a row of a table says it.
            measured: its middle is judged.
            at_least, at_most: the goal; one of them.
            unit: of measured; empty for ratios.
            interval: the goal is reached if the interval reaches it, rather than its middle.
        """
        if at_least is not None:
            wanted = _wanted("≥", at_least, unit)
            reached = (measured.high if interval else measured.mid) >= at_least
        else:
            assert at_most is not None
            wanted = _wanted("≤", at_most, unit)
            reached = (measured.low if interval else measured.mid) <= at_most
        judged = None if self.profile == "quick" else reached
        self._add_goal(Goal(benchmark, text, wanted, measured, judged))

    def leave_open(
        self,
        benchmark: str,
        text: str,
        reason: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        unit: str = "",
    ) -> None:
        """Keep a goal that could not be measured, and why; at_least or at_most as for ``judge``."""
        wanted = _wanted("≥", at_least, unit) if at_least is not None else _wanted("≤", at_most or 0, unit)
        self._add_goal(Goal(benchmark, text, wanted, None, None, reason))

    def _add_goal(self, goal: Goal) -> None:
        self.goals = [old for old in self.goals if (old.benchmark, old.text) != (goal.benchmark, goal.text)]
        self.goals.append(goal)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "format": _FORMAT,
            "profile": self.profile,
            "machine": self.machine,
            "runs": self.runs,
            "cells": [asdict(cell) for cell in self.cells],
            "skips": [asdict(skip) for skip in self.skips],
            "goals": [asdict(goal) for goal in self.goals],
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        os.replace(temporary, self.path)

    # Reading

    def values(self, benchmark: str, key: str, arm: str, unit: str) -> tuple[float, ...] | None:
        """Return what was measured, or None."""
        for cell in self.cells:
            if (cell.benchmark, cell.key, cell.arm, cell.unit) == (benchmark, key, arm, unit):
                return cell.values
        return None

    def done(self, benchmark: str, key: str, arms: Iterable[str]) -> bool:
        """Tell whether every one of arms has figures for key already.

        A comparison is measured as a whole, since its arms take turns: ask for all arms that can be measured
        now, and measure all of them again if the answer is no.
        """
        there = {cell.arm for cell in self.cells if (cell.benchmark, cell.key) == (benchmark, key)}
        return there.issuperset(arms)

    def of(self, benchmark: str) -> Sequence[Cell]:
        """Return a benchmark's cells, in the order in which they were added."""
        return [cell for cell in self.cells if cell.benchmark == benchmark]


def _wanted(sign: str, value: float, unit: str) -> str:
    return f"{sign} {value:g} {unit}".strip()
