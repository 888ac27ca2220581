"""Downloads: the files of a version in a folder, linked where they are on this host, else received.

A blob of the shared volume is hard-linked where the folder lies on the same mount: the link holds the bytes,
whatever the proxy evicts. Mostly it does not (a pod sees the store through a mount of its own); then it is a
symbolic link, and a shared lock on the blob, which eviction respects, is held as long as the model object
lives. A process that ends right after its download cannot hold it, so ``hotstart pull`` copies instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hotstart.engine.planning import Verification
from hotstart.engine.targets import Target
from hotstart.engine.transfer import Transfer
from hotstart.errors import DownloadFailed, FileNotInVersion
from hotstart.sources.base import SourceKind
from hotstart.wire.manifest import File
from hotstart.wire.pieces import PIECE_BYTES, piece_range, pieces_of
from hotstart.wire.ranges import ByteRange

if TYPE_CHECKING:
    from hotstart.sources.chain import Opened

__all__ = ["Download", "default_folder", "side_files"]

# No file of a version begins like this (reserved names), so a leftover is known for what it is.
_TEMPORARY = ".hotstart-{}.part"
_HASH_BYTES = 1024 * 1024
# Weights in whatever form: who loads a tokenizer or a configuration reads none of them.
_WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz", ".npy", ".tflite"),
    *(".onnx", ".onnx_data", ".onnx.data", ".pb", ".ot", ".mlmodel", ".tar", ".zip"),
)


def default_folder(model: str, version: str) -> Path:
    """Return where a version goes if nothing is said: in the user's cache, by model and version."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root.joinpath("hotstart", *model.split("/"), version)


def side_files(files: Sequence[File]) -> list[File]:
    """Return what is not weights, by its name: configuration, tokenizer, code and the like."""
    return [file for file in files if not file.path.endswith(_WEIGHTS)]


class Download:
    """One download of one version, or of the one file that the reference names."""

    def __init__(
        self,
        opened: Opened,
        folder: str | os.PathLike[str] | None,
        *,
        owner: object | None = None,
        progress: Callable[[int], None] | None = None,
        only: Sequence[File] | None = None,
    ) -> None:
        """Prepare.

        Args:
            opened: the version.
            folder: where; None is ``default_folder``.
            owner: keeps the locks of symbolic links as long as it lives; None makes no symbolic links.
            progress: is told how many more bytes are in place, from several threads.
            only: files of the version; None is what the reference names, a file or all.
        """
        manifest = opened.opening.manifest
        self.folder = default_folder(manifest.model, manifest.version) if folder is None else Path(folder)
        self._opened = opened
        self._owner = owner
        self._only = only
        self.progress = progress or (lambda size: None)

    @property
    def files(self) -> tuple[File, ...]:
        """What is downloaded.

        Raises:
            FileNotInVersion: the reference names a file that is not there.
        """
        if self._only is not None:
            return tuple(self._only)
        manifest = self._opened.opening.manifest
        path = self._opened.reference.file
        if path is None:
            return manifest.files
        file = manifest.file(path)
        if file is None:
            reference = f"{manifest.model}@{manifest.version}"
            raise FileNotInVersion(reference, path, [file.path for file in manifest.files])
        return (file,)

    def run(self) -> Path:
        """Download what is missing and return the folder; nothing half-written stays behind.

        Raises:
            DownloadFailed, AllSourcesFailed, IntegrityError
        """
        missing = [file for file in self.files if not self._is_there(file)]
        folders = {self._place(file).parent for file in missing} or {self.folder}
        for folder in folders:
            with _failing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                _sweep(folder)
        self._receive([file for file in missing if not self._link(file)])
        return self.folder

    def _place(self, file: File) -> Path:
        return self.folder.joinpath(*file.path.split("/"))

    def _is_there(self, file: File) -> bool:
        place = self._place(file)
        try:
            if place.stat().st_size != file.size or file.sha256 is None:
                return False
            digest = hashlib.sha256()
            with place.open("rb", buffering=0) as existing:
                while data := existing.read(_HASH_BYTES):
                    digest.update(data)
        except OSError:
            # Not there, or unreadable: then writing it will say why.
            return False
        if digest.hexdigest() != file.sha256:
            return False
        self.progress(file.size)
        return True

    def _link(self, file: File) -> bool:
        identity = file.identity()
        volume = self._opened.sources.current(identity)
        if volume.kind is not SourceKind.SHARED:
            return False
        # Here, since it takes flock, which not every system has.
        from hotstart.sources.shared import SharedVolume

        assert isinstance(volume, SharedVolume)
        descriptor = volume.open(identity)
        if descriptor is None:
            return False
        place = self._place(file)
        blob = volume.path(identity)
        try:
            is_linked = _replace_by(os.link, blob, place)
            if not is_linked and self._owner is not None and _replace_by(os.symlink, blob, place):
                is_linked = True
                weakref.finalize(self._owner, os.close, descriptor)
                descriptor = None
        finally:
            if descriptor is not None:
                os.close(descriptor)
        if is_linked:
            self.progress(file.size)
        return is_linked

    def _receive(self, files: list[File]) -> None:
        transfer = Transfer(f"downloading {self._opened.reference}", self._opened.sources, Verification.AUTO)
        targets: list[_FileTarget] = []
        try:
            for file in files:
                targets.append(_FileTarget(file, self._place(file), self.progress))  # noqa: PERF401
            transfer.start(targets)
            transfer.wait()
        finally:
            # First the threads, which write into the files.
            transfer.abort()
            for target in targets:
                target.discard()


class _FileTarget(Target):
    """A file that is written as its pieces become good, under another name until it is whole."""

    # One piece a request: that is what a worker holds in memory until it is good.
    item_bytes = PIECE_BYTES

    def __init__(self, file: File, place: Path, progress: Callable[[int], None]) -> None:
        super().__init__(file)
        self._place = place
        self._temporary = _temporary(place)
        self._progress = progress
        self._held: dict[int, memoryview] = {}
        self._spare: list[memoryview] = []
        with _failing(place):
            self._stream = self._temporary.open("xb", buffering=0)
            try:
                _lock(self._stream.fileno())
                _reserve(self._stream.fileno(), file.size)
            except BaseException:
                self.discard()
                raise

    @property
    def is_buffered(self) -> bool:
        return True

    def begin(self) -> list[ByteRange]:
        self._is_planned = True
        return self._plan([ByteRange(0, self.file.size)])

    def window(self, wanted: ByteRange) -> memoryview:
        piece = wanted.start // PIECE_BYTES
        held = self._held.get(piece)
        if held is None:
            held = self._spare.pop() if self._spare else memoryview(bytearray(PIECE_BYTES))
            self._held[piece] = held
        start = piece * PIECE_BYTES
        return held[wanted.start - start : wanted.stop - start]

    def on_good(self, settled: ByteRange, merged: ByteRange) -> list[ByteRange]:
        for piece in pieces_of(settled):
            whole = piece_range(piece, self.file.size)
            part = whole.intersection(settled)
            with _failing(self._place):
                self._stream.seek(part.start)
                _write(self._stream.fileno(), self.window(part))
            if self._good.covers(whole):
                self._spare.append(self._held.pop(piece))
        self._progress(len(settled))
        return []

    def finish(self) -> None:
        with _failing(self._place):
            self._stream.close()
            os.replace(self._temporary, self._place)

    def discard(self) -> None:
        """Remove what is left under the temporary name."""
        self._stream.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def _temporary(place: Path) -> Path:
    return place.with_name(_TEMPORARY.format(secrets.token_hex(8)))


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _reserve(descriptor: int, size: int) -> None:
    """Take the space at once, so that a full disk is told before anything is received."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def _replace_by(link: Callable[[Path, Path], None], blob: Path, place: Path) -> bool:
    """Put a link in place; tell whether that could be done."""
    temporary = _temporary(place)
    try:
        link(blob, temporary)
        os.replace(temporary, place)
    except OSError:
        return False
    finally:
        # Renaming one hard link of a file to another does nothing, and leaves both.
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True


def _lock(descriptor: int) -> None:
    """Mark a temporary file as in use; systems without flock keep leftovers of processes that were killed."""
    try:
        import fcntl
    except ImportError:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep(folder: Path) -> None:
    """Remove temporary files whose process was killed, which nobody has locked any more."""
    try:
        import fcntl
    except ImportError:
        return
    for leftover in folder.glob(_TEMPORARY.format("*")):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadFailed(path, error.strerror or str(error)) from error
