"""One set of metrics out of those of several workers: snapshots, and how they are merged. Without I/O.

What was counted stays counted: a sum that went down would look to Prometheus like a restart, and the next
rise like a burst. So whoever gathers keeps the last ``cumulative`` part of a worker that ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Across", "Family", "Sample", "Snapshot", "cumulative", "dump_snapshot", "merge", "parse_snapshot"]


class Across(StrEnum):
    """How the samples of several workers become one.

    ``LAST`` is for facts that one label tells: of samples that differ in their last label alone, the one that
    was told last stays.
    """

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LAST = "last"


# What the Prometheus client tells of a process. Descriptors: the process that is nearest to its limit.
_PROCESS_RULES: Mapping[str, Across] = {
    "process_virtual_memory_bytes": Across.SUM,
    "process_resident_memory_bytes": Across.SUM,
    "process_start_time_seconds": Across.MIN,
    "process_open_fds": Across.MAX,
    "process_max_fds": Across.MIN,
}
_CUMULATIVE = frozenset(("counter", "histogram"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample.

    Attributes:
        name: of the series: a histogram's has a suffix.
        labels: names and values, in the metric's order.
        moment: when it was told, in seconds of a clock that all workers share; 0.0 where it does not matter.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    moment: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples; the name is without ``_total``."""

    name: str
    kind: str
    help_text: str
    samples: tuple[Sample, ...]


Snapshot = tuple[Family, ...]


def merge(snapshots: Iterable[Snapshot], rules: Mapping[str, Across]) -> Snapshot:
    """Merge the snapshots of several workers into one; families and series keep the order they came in.

    Args:
        snapshots: in any number.
        rules: for gauges, by the family's name; counters and histograms are summed whatever it says. A gauge
            without a rule takes the highest value.
    """
    heads: dict[str, Family] = {}
    merged: dict[str, dict[tuple[object, ...], Sample]] = {}
    for family in (family for snapshot in snapshots for family in snapshot):
        heads.setdefault(family.name, family)
        series = merged.setdefault(family.name, {})
        across = _rule(family, rules)
        for sample in family.samples:
            labels = sample.labels[:-1] if across is Across.LAST else sample.labels
            key = (sample.name, labels)
            before = series.get(key)
            series[key] = sample if before is None else _merged(before, sample, across)
    return tuple(
        Family(name, head.kind, head.help_text, tuple(merged[name].values())) for name, head in heads.items()
    )


def _rule(family: Family, rules: Mapping[str, Across]) -> Across:
    if family.kind in _CUMULATIVE:
        return Across.SUM
    return rules.get(family.name) or _PROCESS_RULES.get(family.name) or Across.MAX


def _merged(first: Sample, second: Sample, across: Across) -> Sample:
    if across is Across.LAST:
        return second if second.moment > first.moment else first
    if across is Across.SUM:
        value = first.value + second.value
    else:
        value = max(first.value, second.value) if across is Across.MAX else min(first.value, second.value)
    return Sample(first.name, first.labels, value)


def cumulative(snapshot: Snapshot) -> Snapshot:
    """Return what only ever rises: the counters and histograms."""
    return tuple(family for family in snapshot if family.kind in _CUMULATIVE)


def dump_snapshot(snapshot: Snapshot) -> list[Any]:
    """Return a snapshot as what JSON can hold."""
    return [
        [
            family.name,
            family.kind,
            family.help_text,
            [[sample.name, dict(sample.labels), sample.value, sample.moment] for sample in family.samples],
        ]
        for family in snapshot
    ]


def parse_snapshot(document: list[Any]) -> Snapshot:
    """Return the snapshot that was dumped; for what a process of our own sent."""
    return tuple(
        Family(
            name,
            kind,
            help_text,
            tuple(
                Sample(series, tuple(labels.items()), value, moment)
                for series, labels, value, moment in samples
            ),
        )
        for name, kind, help_text, samples in document
    )
