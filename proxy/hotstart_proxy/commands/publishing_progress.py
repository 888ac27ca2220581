"""Drawing the progress of a publish on stderr: bars on a terminal, a line a file anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from hotstart_proxy.publishing.progress import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["drawn_progress"]


@contextmanager
def drawn_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a watcher that draws on stream (default: stderr) until the context ends."""
    stream = sys.stderr if stream is None else stream
    bars = _bars(stream) if stream.isatty() else None
    if bars is None:
        yield _Lines(stream)
        return
    with bars:
        yield _Bars(bars)


def _bars(stream: TextIO) -> Bars | None:
    """Return bars, or None where the extra cli is not installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ModuleNotFoundError:
        return None
    return Progress(
        TextColumn("{task.description:>11}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )


class _Lines:
    """One line a file or twin, when it is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def expect(self, stage: Stage, more_bytes: int) -> None:
        """Ignore it: how many bytes there are is said at the end."""

    def advance(self, stage: Stage, count: int) -> None:
        """Ignore it."""

    def end(self, path: str, outcome: str) -> None:
        """Print what became of a file."""
        self._stream.write(f"{path}: {outcome}\n")
        self._stream.flush()


class _Bars:
    """One bar a stage, shown as soon as there is something to do in it."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[Stage, TaskID] = {}
        self._totals: dict[Stage, int] = {}

    def expect(self, stage: Stage, more_bytes: int) -> None:
        """Lengthen a bar, or begin it."""
        total = self._totals.get(stage, 0) + more_bytes
        self._totals[stage] = total
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], total=total)
        elif total:
            self._tasks[stage] = self._bars.add_task(stage.value, total=total)

    def advance(self, stage: Stage, count: int) -> None:
        """Move a bar on; rich has a lock of its own."""
        if stage in self._tasks:
            self._bars.advance(self._tasks[stage], count)

    def end(self, path: str, outcome: str) -> None:
        """Ignore it: the bars show it."""
