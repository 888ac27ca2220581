"""The inventory of a folder: headers checked, then every byte read once for its digests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hotstart.wire.claim import Claim, ClaimedFile
from hotstart.wire.errors import FormatError, HotstartError
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart.wire.media_types import media_type
from hotstart.wire.pieces import PIECE_BYTES, PieceHasher, Pieces
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from hotstart.wire.selection import select_weights

from .errors import FileChanged, FolderRefused, Stopped, UnreadableFile
from .folder import Folder, SourceFile
from .jobs import in_thread, run_bounded, usable_cpus
from .progress import Progress, Stage

__all__ = ["Inventory", "ItemisedFile", "read_header", "read_headers", "take_inventory"]

_SHARD_INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ItemisedFile:
    """A file of the folder and its digests.

    Attributes:
        header: of a Safetensors file; None for others.
        sha256: hex.
    """

    source: SourceFile
    header: Header | None
    sha256: str
    pieces: Pieces

    def file(self, origin: OriginObject) -> File:
        """Return its entry in a manifest, without twins."""
        return File(
            path=self.source.path,
            size=self.source.size,
            sha256=self.sha256,
            id=self.sha256,
            media_type=media_type(self.source.path),
            origin=origin,
            header_length=None if self.header is None else self.header.length,
            pieces=self.pieces,
        )


@dataclass(frozen=True, slots=True)
class Inventory:
    """All files to publish, by rising path."""

    files: tuple[ItemisedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.source.size for file in self.files)

    def claim(self, model: str, version: str) -> Claim:
        """Return what a publisher of these files claims."""
        return Claim(
            model,
            version,
            tuple(ClaimedFile(file.source.path, file.source.size, file.sha256) for file in self.files),
        )


async def read_headers(folder: Folder) -> Mapping[str, Header]:
    """Read and check the header of every Safetensors file, by path.

    Raises:
        FolderRefused: files are malformed or cannot be read; all are named.
    """
    return await in_thread(partial(_read_headers, folder))


async def take_inventory(
    folder: Folder, headers: Mapping[str, Header], model: str, version: str, progress: Progress
) -> Inventory:
    """Digest every file, and check every index of shards.

    Args:
        folder: what to publish.
        headers: see ``read_headers``.
        model: two segments.
        version: what the folder is to be published as.
        progress: is told of every byte.

    Raises:
        FolderRefused: shards and their index disagree; all are named.
        FileChanged: a file is no longer what it was when the folder's names were read.
        UnreadableFile: a file cannot be read.
    """
    progress.expect(Stage.DIGESTING, sum(source.size for source in folder.files))
    advance = partial(progress.advance, Stage.DIGESTING)
    files = await run_bounded(
        usable_cpus(),
        [
            partial(in_thread, partial(_itemise, source, headers.get(source.path), advance))
            for source in folder.files
        ],
    )
    inventory = Inventory(tuple(files))
    await in_thread(partial(_check_shards, folder, inventory, model, version))
    return inventory


def _read_headers(folder: Folder, stop: threading.Event) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    problems: list[str] = []
    for source in folder.files:
        if stop.is_set():
            raise Stopped
        if source.is_safetensors:
            try:
                headers[source.path] = read_header(source)
            except FormatError as error:
                problems.append(f"{source.path}: {error}")
            except OSError as error:
                problems.append(f"{source.path}: {error.strerror}")
    if problems:
        raise FolderRefused(str(folder.root), problems)
    return headers


def read_header(source: SourceFile) -> Header:
    """Read and check the header of a Safetensors file.

    Raises:
        FormatError: it is malformed, or describes a file of another size.
    """
    with source.location.open("rb", buffering=0) as file:
        length = parse_header_length(file.read(min(LENGTH_BYTES, source.size)))
        # Before it is read: a header that claims more than the file has costs no memory.
        if LENGTH_BYTES + length > source.size:
            raise FormatError(
                "Safetensors header", f"claims {length} bytes, but the whole file has {source.size}"
            )
        return parse_header(_read_exactly(file.fileno(), length, source), source.size)


def _read_exactly(descriptor: int, length: int, source: SourceFile) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = os.readv(descriptor, [view])
        if not count:
            raise FileChanged(source.path)
        view = view[count:]
    return data


def _itemise(
    source: SourceFile, header: Header | None, advance: Callable[[int], None], stop: threading.Event
) -> ItemisedFile:
    hasher = PieceHasher()
    buffer = memoryview(bytearray(min(PIECE_BYTES, max(source.size, 1))))
    try:
        with source.location.open("rb", buffering=0) as file:
            source.check_unchanged(file.fileno())
            while count := file.readinto(buffer):
                if stop.is_set():
                    raise Stopped
                hasher.update(buffer[:count])
                advance(count)
            source.check_unchanged(file.fileno())
    except OSError as error:
        raise UnreadableFile(source.path, error.strerror or str(error)) from error
    if hasher.size != source.size:
        raise FileChanged(source.path)
    sha256, pieces = hasher.finish()
    return ItemisedFile(source, header, sha256, pieces)


def _check_shards(
    folder: Folder, inventory: Inventory, model: str, version: str, stop: threading.Event
) -> None:
    """Refuse what nobody could load: an index of shards that its shards do not bear out."""
    problems = list(_shard_problems(inventory, model, version, stop))
    if problems:
        raise FolderRefused(str(folder.root), problems)


def _shard_problems(inventory: Inventory, model: str, version: str, stop: threading.Event) -> Iterator[str]:
    by_path = {file.source.path: file for file in inventory.files}
    manifest = _prospect(inventory.files, model, version)

    def read(path: str) -> bytes:
        return by_path[path].source.location.read_bytes()

    for path in by_path:
        if stop.is_set():
            raise Stopped
        if not path.endswith(_SHARD_INDEX_SUFFIX):
            continue
        try:
            selection = select_weights(manifest, path, read)
            for shard in selection.files:
                header = by_path[shard.path].header
                selection.check_shard(shard.path, () if header is None else header.tensors.keys())
        except HotstartError as error:
            yield f"{path}: {error}"


def _prospect(files: Sequence[ItemisedFile], model: str, version: str) -> Manifest:
    """Return the manifest as it would be, for questions that do not concern the origin."""
    nowhere = OriginObject("nowhere", '""')
    return Manifest(model, version, 0, tuple(file.file(nowhere) for file in files))
