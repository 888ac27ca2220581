"""Pre-signed URLs: a version's bytes straight from the origin, without credentials of our own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hotstart.wire.manifest import File, Representation
from hotstart.wire.ranges import ByteRange

from .answers import Refusal, check_range
from .base import Body, Session, Source, SourceError, SourceKind
from .endpoints import InvalidUrl, parse_url
from .http import Connection

__all__ = ["PresignedSource"]

# What S3 says of an expired or revoked URL; some servers say 400 or 401 for a session token that has ended.
_EXPIRED = frozenset((400, 401, 403))


@dataclass(slots=True)
class _Signed:
    """One generation of URLs.

    Attributes:
        number: rises with every refresh.
        urls: by representation path.
        proven: an answer was had with one of them.
    """

    number: int
    urls: Mapping[str, str]
    proven: bool = False


class PresignedSource(Source):
    """One version, read with URLs that someone else signed.

    Where the origin refuses a URL, fresh ones are asked for once; ones that never worked are not replaced, so
    nothing goes round in circles.
    """

    kind = SourceKind.PRESIGNED

    def __init__(
        self,
        name: str,
        urls: Mapping[str, str],
        *,
        refresh: Callable[[], Mapping[str, str]] | None,
        advice: Callable[[], str],
    ) -> None:
        """Take URLs.

        Args:
            name: for errors and reports.
            urls: by representation path; secrets.
            refresh: gets fresh ones of the same version, or raises SourceError; None where nobody can.
            advice: what to tell of refused URLs: how old they are, and what to do.
        """
        self.name = name
        self._signed = _Signed(0, urls)
        self._refresh = refresh
        self._advice = advice
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"PresignedSource({self.name!r}, {len(self._signed.urls)} urls)"

    def has(self, representation: Representation) -> bool:
        return representation.path in self._signed.urls

    def session(self) -> Session:
        return _PresignedSession(self)

    def signed(self) -> _Signed:
        """Return the newest generation of URLs."""
        return self._signed

    def refreshed(self, refused_with: _Signed, error: SourceError) -> _Signed:
        """Return a newer generation than the one that was refused; whichever thread comes first gets it.

        Raises:
            SourceError: there is none to be had.
        """
        with self._lock:
            if self._signed.number > refused_with.number:
                return self._signed
            if self._refresh is None or (refused_with.number and not refused_with.proven):
                raise self.expired(error)
            try:
                urls = self._refresh()
            except SourceError as failure:
                raise self.expired(error, f"asking for fresh URLs failed: {failure}") from failure
            self._signed = _Signed(refused_with.number + 1, urls)
            return self._signed

    def expired(self, error: SourceError, more: str = "") -> SourceError:
        """Return the error that says what to do about refused URLs."""
        reason = "; ".join(part for part in (error.reason, more, self._advice()) if part)
        return SourceError(self.name, error.doing, reason, transient=False)


class _PresignedSession(Session):
    def __init__(self, source: PresignedSource) -> None:
        self._source = source
        self._connection: Connection | None = None
        self._closed = False

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {representation.path}"
        signed = self._source.signed()
        try:
            return self._attempt(signed, representation, wanted, doing)
        except Refusal as refusal:
            if refusal.status not in _EXPIRED:
                raise
            signed = self._source.refreshed(signed, refusal)
        try:
            return self._attempt(signed, representation, wanted, doing)
        except Refusal as second_refusal:
            if second_refusal.status not in _EXPIRED:
                raise
            raise self._source.expired(second_refusal, "fresh URLs are refused too") from second_refusal

    def _attempt(
        self, signed: _Signed, representation: Representation, wanted: ByteRange, doing: str
    ) -> Body:
        url = signed.urls.get(representation.path)
        if url is None:
            raise SourceError(self._source.name, doing, "no URL of it was signed", transient=False)
        try:
            endpoint, target = parse_url(url)
        except InvalidUrl as error:
            raise SourceError(self._source.name, doing, str(error), transient=False) from None
        connection = self._connection
        if connection is None or connection.endpoint != endpoint:
            if connection is not None:
                connection.close()
            connection = self._connection = Connection(endpoint, self._source.name)
            if self._closed:
                connection.close()
        origin = representation.origin
        # Only what was signed must stay as it was; other headers are free.
        headers = {"Range": wanted.header(), "If-Match": origin.etag}
        response = connection.request("GET", target, headers, doing=doing)
        body = check_range(response, wanted, representation.size, origin.etag)
        signed.proven = True
        return body

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()
