"""Where bytes come from: the interface of every source, and how a source says that it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING

from hotstart.wire.errors import HotstartError

if TYPE_CHECKING:
    from hotstart.buffers import MappedFile
    from hotstart.wire.manifest import File, Representation
    from hotstart.wire.ranges import ByteRange

__all__ = ["AllSourcesFailed", "Body", "Session", "Source", "SourceError", "SourceKind"]


class SourceKind(StrEnum):
    """The kinds of source, nearest first."""

    SHARED = "shared volume"
    UNIX = "proxy over a Unix socket"
    TCP = "proxy over TCP"
    PRESIGNED = "pre-signed URL"
    ORIGIN = "origin"


class SourceError(HotstartError):
    """One source failed.

    Attributes:
        source: its name, without secrets.
        doing: what was attempted.
        reason: what happened, in words that help.
        transient: asking the same source again may help.
        retry_after_seconds: how long the source asks to be left alone; None where it does not say.
    """

    def __init__(
        self,
        source: str,
        doing: str,
        reason: str,
        *,
        transient: bool,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.source = source
        self.doing = doing
        self.reason = reason
        self.transient = transient
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{source}: {doing}: {reason}")


class AllSourcesFailed(HotstartError):
    """No source could do it.

    Attributes:
        doing: what was attempted.
        failures: one error a source, in the order they were tried.
    """

    def __init__(self, doing: str, failures: list[SourceError]) -> None:
        self.doing = doing
        self.failures = tuple(failures)
        tried = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, 1))
        super().__init__(f"{doing}: every source failed{tried or ': none is configured'}")


class Body(ABC):
    """The bytes of one answer, read once, in order. A context manager."""

    length: int

    @abstractmethod
    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of buffer; return how many bytes, 0 only at the end.

        Raises:
            SourceError: the source broke; what was returned before is good.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go; the connection is kept only if all was read."""

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Session(ABC):
    """One worker's use of a source: owns a connection, is used by one thread at a time."""

    @abstractmethod
    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        """Ask for exactly the wanted bytes of one representation (never empty) of a file.

        The body yields exactly that many bytes or raises.

        Raises:
            SourceError: refused, unreachable, or another representation than the manifest's (its ETag).
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; idempotent, and allowed from another thread to interrupt a read."""


class Source(ABC):
    """One place that serves the bytes of one opened version. Safe for use from several threads."""

    kind: SourceKind
    name: str
    """For reports and errors, without secrets: ``proxy http://127.0.0.1:8470``."""
    is_local: bool = False
    """On this host: moving bytes costs less than decoding a twin would."""

    @abstractmethod
    def has(self, representation: Representation) -> bool:
        """Tell, without asking anyone, whether this source can be asked for the representation.

        The shared volume looks into its directory; nothing else does any I/O here.
        """

    def holds(self, representation: Representation) -> bool:
        """Tell whether the representation is there, and need not be fetched from elsewhere first."""
        return self.has(representation)

    @abstractmethod
    def session(self) -> Session:
        """Return a new session; connecting happens at its first fetch."""

    def map(self, representation: Representation) -> MappedFile | None:
        """Return the representation mapped into memory where this source can do that without moving bytes."""
        return None
