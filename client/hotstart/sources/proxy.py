"""The proxy, over TCP or a Unix socket: opening a reference, and the bytes of what was opened."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping
from urllib.parse import urljoin

from hotstart.wire.digests import etag
from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, Manifest, Representation
from hotstart.wire.opening import Opening
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference

from .answers import check_range, refused
from .base import Body, Session, Source, SourceError, SourceKind
from .endpoints import Endpoint, InvalidUrl, parse_url
from .http import IDLE_SECONDS, Connection, Response

__all__ = ["ProxyClient", "ProxySource"]

# A cold start that waits for a proxy that hangs has better things to try. A proxy that must ask a slow origin
# answers within this all the same: its own wait for it is shorter.
_ANSWER_SECONDS = 10.0
# How long the connection of an opening is good for its load. After longer it may be gone without a word, and
# a new one tells so sooner.
_KEPT_SECONDS = 5.0
# A manifest grows with the model (27 characters for each 4 MiB, and seek tables); the parser takes this much.
_MAX_DOCUMENT_BYTES = 256 * 1024 * 1024


class ProxyClient:
    """Speaks a proxy's native API. Safe for use from several threads: each has its own connection."""

    def __init__(self, endpoint: Endpoint, token: str | None, tier: str | None = None) -> None:
        """Name a proxy; nothing is asked yet.

        Args:
            endpoint: where it listens.
            token: sent with every request; None where it needs none.
            tier: latency tier of every request; None for the proxy's default.
        """
        self.endpoint = endpoint
        self.name = f"proxy {endpoint}"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if tier is not None:
            self._headers["X-Latency-Tier"] = tier
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    def open(self, reference: Reference, connection: Connection | None = None) -> Opening:
        """Resolve a reference: one round trip.

        Args:
            reference: its file, if it names one, plays no part.
            connection: to use and keep open; without one, a connection is made and closed.

        Raises:
            SourceError: refused, unreachable, or an answer that is not an opening of this model.
        """
        whole = Reference(reference.model, reference.selector)
        doing = f"opening {whole}"
        data = self.get(f"/v1/open/{whole.url_path()}", doing, connection)
        try:
            opening = Opening.parse(data)
        except FormatError as error:
            raise SourceError(self.name, doing, str(error), transient=False) from error
        if opening.manifest.model != reference.model:
            reason = f"it answered with {opening.manifest.model}@{opening.manifest.version}"
            raise SourceError(self.name, doing, reason, transient=False)
        return opening

    def get(self, target: str, doing: str, connection: Connection | None = None) -> bytes:
        """Return the body of a small answer (errors as open)."""
        own = connection is None
        if connection is None:
            connection = self.control_connection()
        try:
            response = connection.request("GET", target, self._headers, doing=doing)
            if response.status != 200:
                raise refused(response)
            with response:
                return response.read(_MAX_DOCUMENT_BYTES)
        finally:
            if own:
                connection.drop()

    def connection(self) -> Connection:
        """Return a connection for bytes: the one that was kept, else one that is not connected yet."""
        with self._lock:
            kept, self._kept = self._kept, None
        connection = None if kept is None else kept.take()
        if connection is None:
            return Connection(self.endpoint, self.name)
        connection.wait_for(IDLE_SECONDS)
        return connection

    def keep(self, connection: Connection) -> None:
        """Keep a connection, idle by now, for the first who wants one for bytes: that saves it a round trip.

        It is closed when nobody has come for it and this object dies. A forked process makes its own.
        """
        with self._lock:
            before, self._kept = self._kept, _Kept(self, connection)
        if before is not None:
            before.drop()

    def control_connection(self) -> Connection:
        """Return a connection for small answers, on which is waited for less long."""
        return Connection(self.endpoint, self.name, _ANSWER_SECONDS)

    def request_range(self, connection: Connection, target: str, wanted: ByteRange, doing: str) -> Response:
        """Ask for a range, without validators: a GET that has some is never redirected.

        The answer's ETag tells as much afterwards, for a resumed body too.
        """
        headers = {**self._headers, "Range": wanted.header()}
        return connection.request("GET", target, headers, doing=doing)


class _Kept:
    """An idle connection that belongs to the process that made it."""

    def __init__(self, owner: ProxyClient, connection: Connection) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._since = time.monotonic()
        # In a forked process this closes its copy of the descriptor, and not the connection.
        self._finalizer = weakref.finalize(owner, connection.drop)

    def take(self) -> Connection | None:
        """Return the connection, or None where it is not to be used any more."""
        if os.getpid() != self._pid or time.monotonic() - self._since > _KEPT_SECONDS:
            self.drop()
            return None
        self._finalizer.detach()
        return self._connection

    def drop(self) -> None:
        """Close it."""
        self._finalizer()


class ProxySource(Source):
    """One version, as a proxy serves it."""

    def __init__(
        self, client: ProxyClient, manifest: Manifest, cached: Mapping[str, int] | None = None
    ) -> None:
        """Name a version.

        Args:
            client: of the proxy.
            manifest: of the version.
            cached: bytes that the proxy holds, by representation path; None where nobody asked.
        """
        self.kind = SourceKind.UNIX if client.endpoint.scheme == "unix" else SourceKind.TCP
        self.name = client.name
        self.is_local = client.endpoint.is_local
        self._client = client
        self._manifest = manifest
        self._cached = cached

    def has(self, representation: Representation) -> bool:
        return True

    def holds(self, representation: Representation) -> bool:
        return self._cached is None or self._cached.get(representation.path, 0) >= representation.size

    def session(self) -> Session:
        return _ProxySession(self._client, self._manifest, self._client.connection())


class _ProxySession(Session):
    def __init__(self, client: ProxyClient, manifest: Manifest, connection: Connection) -> None:
        self._client = client
        self._manifest = manifest
        self._connection = connection
        self._redirected: Connection | None = None
        self._closed = False

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        reference = Reference(self._manifest.model, self._manifest.version, representation.path)
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {reference}"
        target = f"/v1/models/{reference.url_path()}"
        response = self._client.request_range(self._connection, target, wanted, doing)
        if response.status == 307:
            return self._follow(response, representation, wanted)
        return check_range(response, wanted, representation.size, etag(representation.id))

    def _follow(self, response: Response, representation: Representation, wanted: ByteRange) -> Body:
        """Go to the origin where the proxy sends us: without its token, and one hop at most."""
        location = response.header("Location") or ""
        response.discard()
        source, doing = response.source, response.doing
        try:
            endpoint, target = parse_url(urljoin(f"{self._client.endpoint}/", location))
        except (InvalidUrl, ValueError) as error:
            # Not the URL itself: its query is a signature.
            raise SourceError(
                source, doing, "it redirects to something that is no http(s) URL", transient=False
            ) from error
        if self._redirected is None or self._redirected.endpoint != endpoint:
            if self._redirected is not None:
                self._redirected.close()
                self._redirected.drop()
            self._redirected = Connection(endpoint, f"{source}, redirected to {endpoint}")
            if self._closed:
                self._redirected.close()
        answer = self._redirected.request("GET", target, {"Range": wanted.header()}, doing=doing)
        return check_range(answer, wanted, representation.size, representation.origin.etag)

    def close(self) -> None:
        self._closed = True
        self._connection.close()
        if self._redirected is not None:
            self._redirected.close()
