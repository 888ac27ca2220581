"""An origin read by the client itself: plans of ``hotstart.wire`` performed with blocking I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from hotstart.wire.catalog import Listing, ListObjects, ObjectBytes, Plan, ReadObject
from hotstart.wire.errors import FormatError

from .base import Source, SourceError, SourceKind

__all__ = ["MAX_DOCUMENT_BYTES", "Origin", "OriginReader", "perform"]

T = TypeVar("T")

# The largest document of an origin is a manifest; more than its parser takes need not be read.
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024


class OriginReader(ABC):
    """Reads small objects and listings, for one thread and one purpose. A context manager."""

    @abstractmethod
    def read(self, key: str, known_etag: str | None) -> ObjectBytes | None:
        """Read a small object whole; None if there is none, without data if it still has known_etag.

        Raises:
            SourceError: anything else.
        """

    @abstractmethod
    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """List what lies under prefix, sorted (errors as read)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; idempotent."""

    def __enter__(self) -> OriginReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Origin(Source):
    """A bucket and prefix, or a directory. Serves the bytes of every version, pinned by the manifest's ETags.

    Attributes:
        url: as configured.
        endpoint: URL without path; ``file://`` for a directory.
        bucket: its name, or the directory's absolute path.
        prefix: with a trailing slash, or empty; part of every key in the bucket.
    """

    kind = SourceKind.ORIGIN
    url: str
    endpoint: str
    bucket: str
    prefix: str

    @abstractmethod
    def reader(self, doing: str) -> OriginReader:
        """Return a reader whose errors say what it was for."""


def perform(origin: Origin, plan: Plan[T], doing: str) -> T:
    """Carry out a plan's requests one after the other and return its result.

    Raises:
        SourceError: the origin failed, or a document there is malformed.
    """
    try:
        with origin.reader(doing) as reader:
            return _drive(reader, plan)
    except FormatError as error:
        raise SourceError(origin.name, doing, str(error), transient=False) from error
    finally:
        plan.close()


def _drive(reader: OriginReader, plan: Plan[T]) -> T:
    answer: ObjectBytes | Listing | None = None
    try:
        request = next(plan)
        while True:
            match request:
                case ReadObject(key, known_etag):
                    answer = reader.read(key, known_etag)
                case ListObjects(prefix, recursive):
                    answer = reader.listing(prefix, recursive=recursive)
            request = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
