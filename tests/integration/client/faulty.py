"""Sources that fail on demand, over the bytes of a real published version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.model import Model
from hotstart.sources.base import Body, Session, Source, SourceError, SourceKind
from hotstart.sources.chain import Chain, Opened
from hotstart.wire.manifest import File, Manifest, Representation
from hotstart.wire.opening import Opening
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference

__all__ = ["FaultySource", "Version", "open_with"]

# As a socket does: less than what is asked for, and no power of two.
_RECEIVE_BYTES = 96 * 1024 + 7


@dataclass(frozen=True, slots=True)
class Version:
    """One published version: its manifest, and the bytes of every representation by path."""

    manifest: Manifest
    manifest_bytes: bytes
    content: Mapping[str, bytes]

    @classmethod
    def read(cls, origin: Path, model: str, version: str) -> Version:
        """Read what publishing left in a directory origin."""
        data = (origin / model / version / ".hotstart" / "manifest.json").read_bytes()
        manifest = Manifest.parse(data)
        representations = [item for file in manifest.files for item in file.representations()]
        return cls(
            manifest, data, {item.path: (origin / item.origin.key).read_bytes() for item in representations}
        )


@dataclass(eq=False)
class FaultySource(Source):
    """Serves a version until it is told to fail.

    Attributes:
        dies_after: bytes after which it breaks for good; None never.
        cuts_every: every body breaks after so many bytes, and may be asked again; None never.
        damage: changes bytes on their way: given path, offset and bytes.
        lacks: suffixes of representations that it does not have.
        gate: bodies wait for it before their first byte; None does not wait.
        sent: by path, the ranges that were given.
        fetches: how many times it was asked.
    """

    version: Version
    name: str = "faulty"
    kind: SourceKind = SourceKind.TCP
    is_local: bool = False
    dies_after: int | None = None
    cuts_every: int | None = None
    damage: Callable[[str, int, bytes], bytes] | None = None
    lacks: tuple[str, ...] = ()
    gate: threading.Event | None = None
    sent: dict[str, list[ByteRange]] = field(default_factory=dict)
    fetches: int = 0
    total: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, representation: Representation) -> bool:
        return not representation.path.endswith(self.lacks) if self.lacks else True

    def session(self) -> Session:
        return _Session(self)

    def take(self, path: str, start: int, limit: int, left: int | None) -> bytes:
        """Return the next bytes of a body.

        Raises:
            SourceError: it breaks here.
        """
        with self.lock:
            count = min(limit, _RECEIVE_BYTES)
            if self.dies_after is not None:
                count = min(count, self.dies_after - self.total)
                if count <= 0:
                    raise SourceError(self.name, "receiving", "it died", transient=False)
            if left is not None:
                count = min(count, left)
                if count <= 0:
                    raise SourceError(self.name, "receiving", "the body was cut short", transient=True)
            self.total += count
            self.sent.setdefault(path, []).append(ByteRange(start, start + count))
        data = self.version.content[path][start : start + count]
        return data if self.damage is None else self.damage(path, start, data)


class _Session(Session):
    def __init__(self, source: FaultySource) -> None:
        self.source = source
        self.is_closed = threading.Event()

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        assert wanted.stop <= representation.size
        assert len(wanted) > 0
        assert not self.is_closed.is_set(), "a closed session is asked"
        with self.source.lock:
            self.source.fetches += 1
        if self.source.dies_after == 0:
            raise SourceError(self.source.name, "connecting", "it is dead", transient=False)
        return _Body(self, representation.path, wanted)

    def close(self) -> None:
        self.is_closed.set()
        if self.source.gate is not None:
            self.source.gate.set()


class _Body(Body):
    def __init__(self, session: _Session, path: str, wanted: ByteRange) -> None:
        self.length = len(wanted)
        self._session = session
        self._path = path
        self._at = wanted.start
        self._stop = wanted.stop
        self._left = session.source.cuts_every

    def readinto(self, buffer: memoryview) -> int:
        source = self._session.source
        if source.gate is not None:
            source.gate.wait()
        if self._session.is_closed.is_set():
            raise SourceError(source.name, "receiving", "it was closed from our side", transient=False)
        limit = min(len(buffer), self._stop - self._at)
        if not limit:
            return 0
        data = source.take(self._path, self._at, limit, self._left)
        buffer[: len(data)] = data
        self._at += len(data)
        if self._left is not None:
            self._left -= len(data)
        return len(data)

    def close(self) -> None:
        pass


def open_with(version: Version, *sources: Source, file: str | None = None) -> Model:
    """Return the version, opened, with a chain of these sources."""
    manifest = version.manifest
    reference = Reference(manifest.model, manifest.version, file)

    def link(source: Source) -> Callable[[], Source]:
        return lambda: source

    chain = Chain(f"loading {reference}", [link(source) for source in sources])
    opening = Opening(manifest, version.manifest_bytes)
    return Model(Opened(reference, opening, chain, "a test", None, 0.0))
