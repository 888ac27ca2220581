"""Making a twin: frames encoded in parallel, in bounded memory, into a temporary file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hotstart.wire.framing import FrameEncoder, saves
from hotstart.wire.manifest import OriginObject, Twin
from hotstart.wire.pieces import PieceHasher, Pieces
from hotstart.wire.ranges import ByteRange
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import TwinForm

from .errors import FileChanged, NoRoom, Stopped, UnreadableFile
from .folder import SourceFile
from .jobs import usable_cpus

__all__ = ["TwinFile", "frame_file"]

# More would outrun the digests, which one thread makes.
_MAX_WORKERS = 8
# Frames that wait to be written while a slow one is encoded; each is at most 4 MiB (but that of the header).
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class TwinFile:
    """A twin that lies in a temporary file, ready to be uploaded.

    Attributes:
        suffix: of its form.
        location: where; whoever asked for it removes it.
        size: bytes, seek table included.
        sha256: hex.
        pieces: of the twin's own bytes.
        seek_table: the skippable frame at its end.
    """

    suffix: str
    location: Path
    size: int
    sha256: str
    pieces: Pieces
    seek_table: bytes

    def twin(self, origin: OriginObject) -> Twin:
        """Return its entry in a manifest."""
        return Twin(self.suffix, self.size, self.sha256, origin, self.pieces, self.seek_table)


def frame_file(
    source: SourceFile,
    form: TwinForm,
    sha256: str | None,
    destination: Path,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> TwinFile | None:
    """Write the twin of a Safetensors file.

    Memory is bounded, whatever the file's size: some 20 MiB a worker thread. The same zstd library gives the
    same bytes.

    Args:
        source: read once, in order.
        form: what the twin is to be, planned from the source's header.
        sha256: what its bytes must be, in hex; None where that is not known.
        destination: a path where nothing is yet.
        advance: is told how many more bytes of source are done.
        stop: set to end early.

    Returns:
        The twin, or None (and no file at destination) where no frame saves enough. The frame of the header
        does not count: it always shrinks, and would alone not be worth a second copy of the file.

    Raises:
        FileChanged, UnreadableFile: source is no longer what it was, or cannot be read.
        NoRoom: destination cannot be written.
        Stopped: stop was set.
    """
    sizes: list[tuple[int, int]] = []
    hasher = PieceHasher()
    try:
        with destination.open("xb") as file:
            # Closed by hand: after an error its threads are to end here, not when the error is forgotten.
            with closing(_encoded(source, sha256, form, stop)) as encoded:
                for place, (content_bytes, stored) in zip(form.frames, encoded, strict=True):
                    file.write(stored)
                    hasher.update(stored)
                    sizes.append((content_bytes, len(stored)))
                    advance(len(place))
            seek_table = SeekTable.of(sizes).dump()
            file.write(seek_table)
            hasher.update(seek_table)
    except OSError as error:
        raise NoRoom(str(destination.parent), error.strerror or str(error)) from error
    if not any(saves(content_bytes, stored_bytes) for content_bytes, stored_bytes in sizes[1:]):
        destination.unlink()
        return None
    size = hasher.size
    digest, pieces = hasher.finish()
    return TwinFile(form.suffix, destination, size, digest, pieces, seek_table)


def _encoded(
    source: SourceFile,
    sha256: str | None,
    form: TwinForm,
    stop: threading.Event,
) -> Generator[tuple[int, bytes], None, None]:
    """Yield bytes of content and the frame, in order, while workers encode those that follow."""
    workers = min(usable_cpus(), _MAX_WORKERS)
    encoders = threading.local()

    def encode(index: int, identity: bytes) -> tuple[int, bytes]:
        # An encoder serves one thread at a time.
        if not hasattr(encoders, "own"):
            encoders.own = FrameEncoder()
        content = form.content(index, identity)
        return len(content), encoders.own.encode(content)

    digest = hashlib.sha256()
    waiting: deque[Future[tuple[int, bytes]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="hotstart-framing") as pool:
        try:
            for index, identity in enumerate(_contents(source, form.frames)):
                if stop.is_set():
                    raise Stopped
                waiting.append(pool.submit(encode, index, identity))
                digest.update(identity)
                if len(waiting) > workers + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise FileChanged(source.path)


def _contents(source: SourceFile, frames: tuple[ByteRange, ...]) -> Iterator[bytes]:
    try:
        with source.location.open("rb", buffering=0) as file:
            for frame in frames:
                content = os.pread(file.fileno(), len(frame), frame.start)
                while len(content) < len(frame):
                    more = os.pread(file.fileno(), len(frame) - len(content), frame.start + len(content))
                    if not more:
                        raise FileChanged(source.path)
                    content += more
                yield content
            source.check_unchanged(file.fileno())
    except OSError as error:
        raise UnreadableFile(source.path, error.strerror or str(error)) from error
