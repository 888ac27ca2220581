"""A bar on stderr while bytes arrive: on a terminal, if rich is installed; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(title: str, total_bytes: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more bytes have arrived, from any thread.

    Args:
        title: stands before the bar.
        total_bytes: where the bar ends.
        quiet: draw nothing in any case.
    """
    if quiet or not sys.stderr.isatty():
        yield _ignore
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    except ModuleNotFoundError:
        yield _ignore
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total_bytes)
        yield lambda count: bars.advance(task, count)


def _ignore(count: int) -> None:
    pass
