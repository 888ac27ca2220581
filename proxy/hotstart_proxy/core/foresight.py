"""What readers of a blob will ask for next: whoever goes through it in order is fetched ahead for.

A loader asks for a few ranges at a time, from the start to the end. Were no more fetched than these, the
origin would be asked over no more connections than the loader has, and its time to first byte would be paid
anew for every range. So once ranges have been asked for that follow one another, a fixed amount is fetched
ahead of them: enough for all connections at once. A window that begins small and grows with what was asked
left connections at rest until the loader had come that far. Whoever reads here and there is fetched nothing
ahead for, and one who stops midway has cost no more than that amount.
"""

from __future__ import annotations

__all__ = ["Foresight"]

# Two requests of a loader's. Two neighbouring tensors, or a header and what follows it, are not yet a way
# through the blob.
_LEAST_PIECES = 4
# Ranges that nobody has gone on with are forgotten, the oldest first: readers at different places of a blob
# are few.
_MOST_RUNS = 16


class Foresight:
    """Remembers what was asked for of one blob."""

    def __init__(self, ahead: int) -> None:
        """Begin with nothing asked.

        Args:
            ahead: pieces to fetch ahead.
        """
        self._ahead = ahead
        # Runs of what was asked, none touching another; the one that was asked for last stands last.
        self._runs: list[range] = []

    def asked(self, wanted: range) -> range:
        """Note what a reader asks for, and return what to fetch ahead of it.

        Args:
            wanted: consecutive pieces.

        Returns:
            Pieces, perhaps beyond the blob's end; empty for a reader that does not go through it in order.
        """
        touching = [run for run in self._runs if run.start <= wanted.stop and wanted.start <= run.stop]
        if not wanted or any(run.start <= wanted.start and wanted.stop <= run.stop for run in touching):
            return range(0)
        start = min([wanted.start, *(run.start for run in touching)])
        stop = max([wanted.stop, *(run.stop for run in touching)])
        self._runs = [run for run in self._runs if run not in touching][1 - _MOST_RUNS :]
        self._runs.append(range(start, stop))
        if not touching or stop - start < _LEAST_PIECES:
            return range(0)
        return range(stop, stop + self._ahead)
