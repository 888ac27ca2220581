"""What loading must reach, and whether it does: pure, over what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Protocol

from benchmarks.harness.results import Results
from benchmarks.harness.statistics import paired_ratio_interval, spread
from benchmarks.loaders import ARMS

__all__ = ["READ", "RETURNED", "JudgedCell", "judge"]

RETURNED = "s to returned tensors"
READ = "s with every byte read"
BEYOND = "MiB beyond the tensors"

_NAME = "load"
_SHARED, _UNIX = "hotstart, shared volume", "hotstart, Unix socket"
_AUTO, _PLAIN, _PLANES = "hotstart, TCP", "hotstart, TCP, plain", "hotstart, TCP, planes"
_MMAP, _LINE = "limit: mmap of a local file", "limit: line"
_NGINX = ("nginx + safetensors, memory", "nginx + safetensors, file")
_PEERS = tuple(arm.name for arm in ARMS if arm.group == "peer")
# Below this, what is the same for all (connecting, opening) weighs too much: reported, not judged.
_LEAST_JUDGED_BYTES = 256 * 1024 * 1024
_MOST_MIB_BEYOND = 64
# Of the line, by bits a second.
_PLAIN_OF_LINE = {1_000_000_000: 0.97, 2_500_000_000: 0.97, 10_000_000_000: 0.9}
_PLANES_OF_LINE = {"fp32": 1.15, "bf16": 1.35}


class JudgedCell(Protocol):
    """What of a cell the goals depend on."""

    @property
    def key(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def size_bytes(self) -> int | None: ...
    @property
    def bits_per_second(self) -> int | None: ...


def judge(results: Results, cells: Iterable[JudgedCell]) -> None:
    """Put the goals of all cells that are judged beside what was measured."""
    for cell in cells:
        if cell.size_bytes is None or cell.size_bytes < _LEAST_JUDGED_BYTES:
            continue
        judging = _Judging(results, cell)
        if cell.bits_per_second is None:
            judging.host()
        else:
            judging.line(cell.bits_per_second)


class _Judging:
    """The goals of one cell."""

    def __init__(self, results: Results, cell: JudgedCell) -> None:
        self._results = results
        self._cell = cell

    def host(self) -> None:
        """Judge what is loaded on the server's own host."""
        for unit, least in ((RETURNED, 10.0), (READ, 3.0)):
            self._faster(_SHARED, "nginx + safetensors", _NGINX, unit, least)
        self._against_mmap()
        for unit in (RETURNED, READ):
            self._faster(_UNIX, "the best peer", _PEERS, unit, 1.3)
        for arm in (_SHARED, _UNIX, _AUTO):
            text = f"{self._cell.key}: {arm}, RssAnon + RssShmem beyond the tensors"
            values = self._values(arm, BEYOND)
            if values is None:
                self._results.leave_open(_NAME, text, f"no {arm}", at_most=_MOST_MIB_BEYOND, unit="MiB")
            else:
                self._results.judge(_NAME, text, spread(values), at_most=_MOST_MIB_BEYOND, unit="MiB")

    def line(self, bits_per_second: int) -> None:
        """Judge what is loaded over a link."""
        self._faster(_PLAIN, "the line", (_LINE,), RETURNED, _PLAIN_OF_LINE[bits_per_second])
        if bits_per_second <= 2_500_000_000:
            self._faster(_PLANES, "the line", (_LINE,), RETURNED, _PLANES_OF_LINE[self._cell.dtype])
        self._faster(_AUTO, "the best peer", _PEERS, RETURNED, 1.0, interval=True)

    def _faster(
        self, arm: str, whom: str, others: Sequence[str], unit: str, least: float, *, interval: bool = False
    ) -> None:
        """Judge how many times faster an arm is than the fastest of others."""
        text = f"{self._cell.key}: {arm}, times as fast as {whom}, {unit.removeprefix('s ')}"
        ours = self._values(arm, unit)
        found = {other: values for other in others if (values := self._values(other, unit))}
        if ours is None or not found:
            missing = arm if ours is None else whom
            self._results.leave_open(_NAME, text, f"{missing} was not measured", at_least=least)
            return
        best = min(found.values(), key=median)
        ratio = paired_ratio_interval(best, ours)
        self._results.judge(_NAME, text, ratio, at_least=least, interval=interval)

    def _against_mmap(self) -> None:
        more = f"{self._cell.key}: {_SHARED}, more than a plain mmap, to returned tensors"
        times = f"{self._cell.key}: {_SHARED}, times as long as a plain mmap, with every byte read"
        returned, limit = self._values(_SHARED, RETURNED), self._values(_MMAP, RETURNED)
        read, limit_read = self._values(_SHARED, READ), self._values(_MMAP, READ)
        if returned is None or limit is None or read is None or limit_read is None:
            reason = "no shared volume or no mmap was measured"
            self._results.leave_open(_NAME, more, reason, at_most=2, unit="ms")
            self._results.leave_open(_NAME, times, reason, at_most=1.1)
            return
        differences = [1000 * (ours - other) for ours, other in zip(returned, limit, strict=True)]
        self._results.judge(_NAME, more, spread(differences), at_most=2, unit="ms")
        self._results.judge(_NAME, times, paired_ratio_interval(read, limit_read), at_most=1.1)

    def _values(self, arm: str, unit: str) -> tuple[float, ...] | None:
        return self._results.values(_NAME, self._cell.key, arm, unit)
