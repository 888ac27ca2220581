"""What publishing tells whoever watches. The command draws it; here is only what is said."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

__all__ = ["NoProgress", "Progress", "Stage"]


class Stage(StrEnum):
    """The kinds of work whose bytes are counted; several run at once."""

    DIGESTING = "reading"
    FETCHING = "fetching"
    FRAMING = "compressing"
    UPLOADING = "uploading"


class Progress(Protocol):
    """A watcher. Called from the event loop and, for advance, from worker threads too."""

    def expect(self, stage: Stage, more_bytes: int) -> None:
        """More bytes than known so far are to be done in a stage."""

    def advance(self, stage: Stage, count: int) -> None:
        """That many more bytes of a stage are done."""

    def end(self, path: str, outcome: str) -> None:
        """A file or twin has arrived, was there already, or is not worth a twin."""


class NoProgress:
    """A watcher that does not look."""

    def expect(self, stage: Stage, more_bytes: int) -> None:
        """Ignore it."""

    def advance(self, stage: Stage, count: int) -> None:
        """Ignore it."""

    def end(self, path: str, outcome: str) -> None:
        """Ignore it."""
