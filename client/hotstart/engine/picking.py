"""Which representation to ask for, with ``compression="auto"``: plain bytes, or a twin that is smaller.

The decision is pure; ``Picker`` feeds it with what a load measures. A load begins with plain bytes, which
commit it to nothing, and measures the link on the first of them. Where that says that a twin is there sooner,
the rest is asked for as the twin: the plan is in offsets of the file, so nothing is received twice but the
frames that both parts touch. What decoding costs is an estimate. So it is looked at once how fast the file
then gets done: where plain bytes had come faster, the rest is plain, and so are later loads of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hotstart.report import format_bytes
from hotstart.sources.base import Source, SourceKind
from hotstart.wire.manifest import File, Representation
from hotstart.wire.twin_forms import PLANES_SUFFIX, ZSTD_SUFFIX

from .meter import Meter
from .planning import Compression
from .targets import Target, TwinPlan

__all__ = ["PLAIN", "Choice", "Picker", "choose", "plan_of"]

PLAIN = "plain"
TWIN_SUFFIXES: Mapping[str, str] = {"zstd": ZSTD_SUFFIX, "planes": PLANES_SUFFIX}
# CPU seconds a byte. Receiving is what sockets and page faults cost. Decoding is of the file's bytes. CPU
# time measured meanwhile says little: the kernel books its work on packets on whichever thread it interrupts.
RECEIVE_COST = 0.4e-9
DECODE_COSTS: Mapping[str, float] = {"zstd": 1.2e-9, "planes": 1.0e-9}
# A twin must be there so much sooner: what it costs to change over, and that the link may do better yet.
_WORTHWHILE = 0.95
# Of the time that its bytes take to arrive, so much of the CPUs' may go into them: the process has other work
# (importing its framework), and the estimates are estimates.
_CPU_SHARE = 0.6
# What the link is measured on: the sooner that is known, the more is still to be asked for. But no less time:
# as long as connections are coming up, a link of 10 Gbit/s may look like one of five.
_SAMPLE_BYTES = 8 * 1024 * 1024
_LEAST_SAMPLE_SECONDS = 0.05
# What a twin's pace is measured on, in bytes of the file: several frames on each connection.
_PACE_BYTES = 64 * 1024 * 1024


class Choice(NamedTuple):
    """What to ask for, and why.

    Attributes:
        name: ``plain``, ``zstd`` or ``planes``.
        reason: half a sentence that goes on from the name.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def choose(size: int, twins: Mapping[str, int], link: float, cpus: int) -> Choice:
    """Return what is there first.

    Bytes arrive at the link's pace while others are decoded, so the longer of the two counts.

    Args:
        size: of the plain bytes.
        twins: sizes of the twins, by name.
        link: bytes that arrive in a second, over all connections.
        cpus: that the process may use.
    """
    plain_seconds = max(size / link, size * RECEIVE_COST / cpus)
    arrives = f"bytes arrive at {format_bytes(round(link))}/s"
    best, best_seconds = "", plain_seconds * _WORTHWHILE
    too_slow = False
    for name, stored in twins.items():
        arrival = stored / link
        work = (stored * RECEIVE_COST + size * DECODE_COSTS[name]) / cpus
        too_slow |= work > arrival * _CPU_SHARE
        if work <= arrival * _CPU_SHARE and arrival < best_seconds:
            best, best_seconds = name, arrival
    if best:
        share = twins[best] / size
        return Choice(best, f"{arrives}, only {share:.0%} of them have to, and {_counted(cpus)} can keep up")
    if too_slow:
        return Choice(PLAIN, f"{arrives}, and {_counted(cpus)} could hardly decode a twin as fast")
    return Choice(PLAIN, f"{arrives}, and a twin would not save enough of them")


def _counted(cpus: int) -> str:
    return "1 CPU" if cpus == 1 else f"{cpus} CPUs"


class _Known:
    """What this process has measured, by the name of the source."""

    def __init__(self) -> None:
        # Innermost: nothing is called under it.
        self.lock = threading.Lock()
        self.links: dict[str, float] = {}
        # Where a twin was slower than plain bytes, and why.
        self.plain: dict[str, Choice] = {}


_known = _Known()


class Picker:
    """Picks for one load, for all of its files alike. Methods may be called from any worker."""

    def __init__(self, compression: Compression, cpus: int) -> None:
        """Prepare.

        Args:
            compression: what the caller asked for.
            cpus: that the process may use.
        """
        self._compression = compression
        self._cpus = cpus
        self._lock = threading.Lock()
        self._meter = Meter(_SAMPLE_BYTES, _LEAST_SAMPLE_SECONDS)
        # All below are guarded by the lock.
        self._source_name = ""
        # Sizes of the plain bytes and, by name, of the twins that may be picked; of all files together.
        self._size = 0
        self._twin_sizes: dict[str, int] = {}
        self._targets: list[Target] = []
        # Those that were asked for as something else than what is picked by now.
        self._outdated: list[Target] = []
        self._is_measuring_link = False
        self._link = 0.0
        # Of bytes of the file that are done, while it is looked at how fast a twin is.
        self._pace: Meter | None = None
        self._choice: Choice | None = None

    @property
    def choice(self) -> Choice | None:
        """What was picked last; None where nothing had to be received."""
        return self._choice

    def begin(self, files: Sequence[File], source: Source) -> str:
        """Pick for files that are about to be received; return the name of what to begin with."""
        with self._lock:
            self._choice = self._first(files, source)
            return self._choice.name

    def _first(self, files: Sequence[File], source: Source) -> Choice:
        if self._compression is not Compression.AUTO:
            return self._asked_for(files, source)
        if source.is_local or source.kind in (SourceKind.UNIX, SourceKind.SHARED):
            return Choice(PLAIN, "on this host, moving bytes costs less than decoding a twin")
        self._source_name = source.name
        self._size = sum(file.size for file in files)
        here = [file for file in files if source.holds(file.identity())]
        names = [name for name in TWIN_SUFFIXES if any(_twin(file, name) for file in files)]
        self._twin_sizes = {
            name: sum(found.size if (found := _twin(file, name)) else file.size for file in files)
            for name in names
            if all(found is None or source.holds(found) for file in files for found in [_twin(file, name)])
        }
        if not self._twin_sizes:
            return Choice(PLAIN, f"{source.name} holds no twin of all of it" if names else "there is no twin")
        if len(here) < len(files):
            smallest = min(self._twin_sizes, key=lambda name: self._twin_sizes[name])
            return Choice(smallest, f"{source.name} holds it, and not the plain bytes")
        with _known.lock:
            beaten = _known.plain.get(self._source_name)
            link = _known.links.get(self._source_name)
        if beaten is not None:
            return beaten
        if link is None:
            self._is_measuring_link = True
            return Choice(PLAIN, "it was all asked for before the link was measured")
        return self._chosen(link)

    def _asked_for(self, files: Sequence[File], source: Source) -> Choice:
        if self._compression is Compression.NONE:
            return Choice(PLAIN, "as asked for")
        name = str(self._compression)
        if source.kind is not SourceKind.SHARED and any(_twin(file, name) for file in files):
            return Choice(name, "as asked for")
        return Choice(PLAIN, f"there is no twin of {name}")

    def watch(self, target: Target) -> None:
        """Take a target into account, which was begun as ``begin`` said."""
        with self._lock:
            if self._twin_sizes:
                self._targets.append(target)

    def arrived(self, count: int, now: float) -> None:
        """Note bytes as they arrive; harmless from several threads at once."""
        self._meter.arrived(count, now)

    def done(self, count: int, now: float) -> None:
        """Note bytes of files that are in their place; harmless from several threads at once."""
        if (pace := self._pace) is not None:
            pace.arrived(count, now)

    def outdated(self, now: float) -> list[tuple[Target, TwinPlan | None]]:
        """Return targets to be asked for as something else from now on: with the twin, or None for plain."""
        if not self._is_measuring_link and self._pace is None and not self._outdated:
            return []
        with self._lock:
            if self._is_measuring_link and (link := self._meter.rate(now)) is not None:
                self._is_measuring_link = False
                with _known.lock:
                    _known.links[self._source_name] = link
                # Without targets, all of it stays what it was begun as.
                if self._targets:
                    self._pick(self._chosen(link))
            elif self._pace is not None and (pace := self._pace.rate(now)) is not None:
                self._pace = None
                self._judge(pace)
            assert self._choice is not None
            return [(target, plan_of(target.file, self._choice.name)) for target in self._outdated]

    def _chosen(self, link: float) -> Choice:
        choice = choose(self._size, self._twin_sizes, link, self._cpus)
        self._link = link
        self._pace = None if choice.name == PLAIN else Meter(_PACE_BYTES)
        return choice

    def _judge(self, pace: float) -> None:
        assert self._choice is not None
        if pace >= self._link:
            return
        plain = Choice(
            PLAIN,
            f"with {self._choice.name} {format_bytes(round(pace))}/s of the file got done, and plain bytes"
            f" arrive at {format_bytes(round(self._link))}/s",
        )
        with _known.lock:
            _known.plain[self._source_name] = plain
        self._pick(plain)

    def _pick(self, choice: Choice) -> None:
        before, self._choice = self._choice, choice
        if before is None or before.name != choice.name:
            self._outdated = list(self._targets)

    def changed_over(self, target: Target) -> None:
        """Note that a target is asked for as it was said."""
        with self._lock:
            if target in self._outdated:
                self._outdated.remove(target)


def plan_of(file: File, name: str) -> TwinPlan | None:
    """Return the plan of a file's twin by its name, None for plain bytes or where the file has none.

    Raises:
        FormatError: its seek table is malformed, or does not fit the file.
    """
    suffix = TWIN_SUFFIXES.get(name)
    return None if suffix is None else TwinPlan.of(file, suffix)


def _twin(file: File, name: str) -> Representation | None:
    return file.twin(TWIN_SUFFIXES[name])
