"""The chain of sources: who is asked first, who next, and what went wrong with those before."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from hotstart.wire.opening import Opening
from hotstart.wire.references import Reference

from .base import AllSourcesFailed, Source, SourceError
from .environment import Environment

if TYPE_CHECKING:
    from hotstart.buffers import MappedFile
    from hotstart.wire.manifest import Representation

    from .proxy import ProxyClient

__all__ = ["Chain", "Environment", "Opened", "open_reference"]

T = TypeVar("T")
Link: TypeAlias = Callable[[], Source]

# Opening is one small request: what seconds do not bring here, another source may.
_ATTEMPTS = 3
_FIRST_DELAY_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0


class Chain:
    """The sources of one version, nearest first. Safe for use from several threads.

    A source further down is made when those before it were given up, since making it may cost a request (the
    fallback manifest) or an import.
    """

    def __init__(
        self,
        doing: str,
        links: Sequence[Link],
        failures: Sequence[SourceError] = (),
    ) -> None:
        """Order sources.

        Args:
            doing: what the whole is for: ``"loading org/bert@7"``.
            links: each makes one source, or raises SourceError if it cannot be used after all.
            failures: of sources that failed before there was a chain.
        """
        self._doing = doing
        self._waiting = list(reversed(links))
        self._failures = list(failures)
        self._sources: list[Source] = []
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()

    def current(self, representation: Representation | None = None) -> Source:
        """Return the first source that has not been given up and, if one is given, has the representation.

        Raises:
            AllSourcesFailed: there is none left; lists why.
        """
        with self._lock:
            for source in self._live():
                if representation is None or source.has(representation):
                    return source
            raise AllSourcesFailed(self._doing, self._failures)

    def _live(self) -> Iterator[Source]:
        yield from tuple(self._sources)
        while self._waiting:
            make = self._waiting.pop()
            try:
                source = make()
            except SourceError as error:
                self._failures.append(error)
                continue
            self._sources.append(source)
            yield source

    def give_up(self, source: Source, error: SourceError) -> None:
        """Ask this source no more, whoever uses the chain; only the first error is kept."""
        with self._lock:
            if source in self._sources:
                self._sources.remove(source)
                self._failures.append(error)

    def map(self, representation: Representation) -> tuple[Source, MappedFile] | None:
        """Return the representation mapped into memory, by the nearest source that can do that."""
        with self._lock:
            for source in self._live():
                mapped = source.map(representation)
                if mapped is not None:
                    return source, mapped
                if source.has(representation):
                    # Whatever lies behind it is further away than it is.
                    return None
            return None

    def count(self, source: Source, size: int) -> None:
        """Add bytes that a source gave, for the report."""
        with self._lock:
            self._used[source.name] = self._used.get(source.name, 0) + size

    @property
    def used(self) -> Mapping[str, int]:
        """Bytes that came from each source, by its name."""
        with self._lock:
            return dict(self._used)

    def failures(self) -> list[SourceError]:
        """Return why sources were given up, in order."""
        with self._lock:
            return list(self._failures)


@dataclass(slots=True)
class Opened:
    """A reference resolved once, and where its bytes are.

    Attributes:
        reference: with the version that it means, and the file that was asked for.
        opening: manifest, fallback, and what the proxy holds.
        sources: the chain for this version.
        opened_by: name of the source that answered.
        connect_seconds: connecting to it; None where nothing had to be connected.
        open_seconds: the whole of it, failures and connecting included.
    """

    reference: Reference
    opening: Opening
    sources: Chain
    opened_by: str
    connect_seconds: float | None
    open_seconds: float


def open_reference(reference: Reference, environment: Environment) -> Opened:
    """Resolve a reference by the proxy, else the fallback manifest, else the origin.

    Raises:
        AllSourcesFailed: none of those that are configured could; lists each and why.
        InvalidEnvironment: none is configured.
    """
    environment.check_not_empty()
    opener = _Opener(reference, environment)
    for open_by in opener.ways():
        try:
            return _patiently(open_by)
        except SourceError as error:
            opener.failures.append(error)
    raise AllSourcesFailed(f"opening {reference}", opener.failures)


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again, a few times and not for long, where that may help."""
    delay = _FIRST_DELAY_SECONDS
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for _ in range(_ATTEMPTS - 1):
        try:
            return ask()
        except SourceError as error:
            resume_at = time.monotonic() + (error.retry_after_seconds or 0)
            if not error.transient or resume_at > deadline:
                raise
            # Jitter: all pods of a rollout start at once.
            time.sleep(max(error.retry_after_seconds or 0, delay * random.uniform(0.5, 1.5)))  # noqa: S311
            delay *= 4
    return ask()


class _Opener:
    """Opens one reference, and builds the chain of what it found on the way.

    Modules with http.client in them (40 ms to import) are imported where they are needed.
    """

    def __init__(self, reference: Reference, environment: Environment) -> None:
        self._reference = reference
        self._environment = environment
        self._started = time.perf_counter()
        self.failures: list[SourceError] = []

    def ways(self) -> list[Callable[[], Opened]]:
        """Return how to open, best first."""
        environment = self._environment
        ways: list[Callable[[], Opened]] = []
        if environment.proxy is not None:
            ways.append(self._by_proxy)
        if environment.fallback is not None:
            ways.append(self._by_fallback)
        if environment.origin is not None:
            ways.append(self._by_origin)
        return ways

    def _by_proxy(self) -> Opened:
        from .fallback import proxy_signed_source
        from .proxy import ProxySource

        client = self._proxy_client()
        assert client is not None
        connection = client.control_connection()
        try:
            opening = client.open(self._reference, connection)
        except BaseException:
            connection.close()
            raise
        client.keep(connection)
        links: list[Link] = [lambda: ProxySource(client, opening.manifest, opening.cached)]
        if opening.fallback is not None:
            signed = proxy_signed_source(client, opening.fallback, _pinned(opening))
            links.append(lambda: signed)
        links += [*self._fallback_link(opening), *self._origin_link()]
        return self._opened(opening, links, client.name, connection.connect_seconds)

    def _by_fallback(self) -> Opened:
        from .fallback import fallback_name, fallback_source, read_fallback

        location = self._environment.fallback
        assert location is not None
        found = read_fallback(location)
        if not found.answers(self._reference):
            names = f" (signed as {', '.join(found.names)})" if found.names else ""
            raise SourceError(
                fallback_name(location),
                f"opening {self._reference}",
                f"it holds {found.model}@{found.version}{names}: "
                f"make one with hotstart presign {self._reference}",
                transient=False,
            )
        opening = Opening(found.manifest, found.manifest_bytes)
        source = fallback_source(location, found, self._proxy_client())
        return self._opened(opening, [lambda: source, *self._origin_link()], source.name, None)

    def _by_origin(self) -> Opened:
        from .catalog import open_version
        from .origins import open_origin

        origin = open_origin(self._environment)
        opening = open_version(origin, self._reference, self._environment.layout)
        return self._opened(opening, [lambda: origin], origin.name, None)

    def _opened(
        self, opening: Opening, links: list[Link], opened_by: str, connect_seconds: float | None
    ) -> Opened:
        reference = replace(_pinned(opening), file=self._reference.file)
        links = [*self._shared_link(), *links]
        return Opened(
            reference=reference,
            opening=opening,
            sources=Chain(f"loading {reference}", links, self.failures),
            opened_by=opened_by,
            connect_seconds=connect_seconds,
            open_seconds=time.perf_counter() - self._started,
        )

    def _proxy_client(self) -> ProxyClient | None:
        from .proxy import ProxyClient

        environment = self._environment
        if environment.proxy is None:
            return None
        return ProxyClient(environment.proxy, environment.token, environment.tier)

    def _shared_link(self) -> list[Link]:
        directory = self._environment.shared_dir
        if directory is None:
            return []

        def make() -> Source:
            from .shared import SharedVolume

            return SharedVolume(directory)

        return [make]

    def _fallback_link(self, opening: Opening) -> list[Link]:
        """Return the fallback manifest as a source for later: it is read when those before it have failed."""
        location = self._environment.fallback
        if location is None:
            return []
        client = self._proxy_client()
        wanted = _pinned(opening)

        def make() -> Source:
            from .fallback import fallback_source, read_fallback

            found = read_fallback(location)
            source = fallback_source(location, found, client)
            if (found.model, found.version) != (wanted.model, wanted.selector):
                reason = f"it holds {found.model}@{found.version}"
                raise SourceError(source.name, f"loading {wanted}", reason, transient=False)
            return source

        return [make]

    def _origin_link(self) -> list[Link]:
        """Return the origin as a source for later: the manifest's keys and ETags are all that it needs."""
        if self._environment.origin is None:
            return []

        def make() -> Source:
            from .origins import open_origin

            return open_origin(self._environment)

        return [make]


def _pinned(opening: Opening) -> Reference:
    return Reference(opening.manifest.model, opening.manifest.version)
