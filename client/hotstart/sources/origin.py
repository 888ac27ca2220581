"""An origin read by the client itself: plans of ``hotstart.wire`` performed with blocking I/O."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from hotstart.wire.catalog import Listing, ListObjects, ObjectBytes, Plan, ReadObject

from .base import Source, SourceKind

__all__ = ["Origin", "perform"]

T = TypeVar("T")

# The largest document of an origin is a manifest; more than its parser takes need not be read.
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024


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
    def read(self, key: str, known_etag: str | None, doing: str) -> ObjectBytes | None:
        """Read a small object whole; None if there is none, without data if it still has known_etag.

        Raises:
            SourceError: anything else.
        """

    @abstractmethod
    def listing(self, prefix: str, *, recursive: bool, doing: str) -> Listing:
        """List what lies under prefix (errors as read)."""


def perform(origin: Origin, plan: Plan[T], doing: str) -> T:
    """Carry out a plan's requests one after the other and return its result.

    Raises:
        SourceError: the origin failed.
        FormatError: a document there is malformed.
    """
    answer: ObjectBytes | Listing | None = None
    try:
        request = next(plan)
        while True:
            match request:
                case ReadObject(key, known_etag):
                    answer = origin.read(key, known_etag, doing)
                case ListObjects(prefix, recursive):
                    answer = origin.listing(prefix, recursive=recursive, doing=doing)
            request = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        plan.close()
