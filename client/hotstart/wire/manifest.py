"""The manifest, format 1: what one immutable version of a model is made of (docs/format.md).

The serializer stands beside its parser. Bytes of a manifest never change once published, so they are kept and
passed on as they are; ``Manifest`` is what readers make of them.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from . import documents
from .digests import is_content_id
from .documents import Document
from .errors import FormatError
from .pieces import PIECE_BYTES, Pieces, piece_count
from .references import check_file, check_model, check_version
from .safetensors import MAX_HEADER_BYTES
from .timestamps import format_timestamp, parse_timestamp

__all__ = ["FORMAT", "TWIN_SUFFIXES", "File", "Manifest", "OriginObject", "Representation", "Twin"]

FORMAT = 1
TWIN_SUFFIXES = (".zst", ".zsp")
_WHAT = "manifest"


@dataclass(frozen=True, slots=True)
class OriginObject:
    """Where a representation lies at the origin.

    Attributes:
        key: relative to the origin's prefix, so that a tree may be copied as a whole.
        etag: as the origin wrote it, quotes included; every read is pinned to it by If-Match.
        version_id: the S3 version of the object; None where the bucket is not versioned.
    """

    key: str
    etag: str
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Representation:
    """One representation of one file: the unit that is stored, filled and sent.

    Attributes:
        path: the file's path with the twin's suffix, as in its URL.
        size: bytes of this representation.
        id: content id; blob name, Redis key and ETag.
        sha256: hex; None for an adopted file.
        media_type: its Content-Type.
        origin: where it comes from.
        pieces: crc32 of every 4 MiB of *these* bytes; None for an adopted file.
    """

    path: str
    size: int
    id: str
    sha256: str | None
    media_type: str
    origin: OriginObject
    pieces: Pieces | None


@dataclass(frozen=True, slots=True)
class Twin:
    """Another representation of a file, under its own URL.

    Attributes:
        suffix: ``.zst`` (zstd-framed) or ``.zsp`` (byte planes).
        size: bytes.
        id: sha256 of the bytes, which is the content id too.
        origin: where it comes from.
        pieces: of the twin's own bytes, so that a fill verifies it as it verifies any other blob.
        seek_table: the skippable frame at the end of the twin, so that a reader plans without fetching it.
    """

    suffix: str
    size: int
    id: str
    origin: OriginObject
    pieces: Pieces
    seek_table: bytes


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version, as published.

    Attributes:
        path: checked by ``check_file``.
        size: bytes.
        sha256: hex; None for an adopted file.
        id: content id.
        media_type: for example ``application/json``.
        origin: where it comes from.
        header_length: for Safetensors, bytes of the JSON header without the 8 bytes of its length; None for
            other files and where it is not known (adopted).
        pieces: None for an adopted file.
        twins: by rising suffix.
    """

    path: str
    size: int
    sha256: str | None
    id: str
    media_type: str
    origin: OriginObject
    header_length: int | None = None
    pieces: Pieces | None = None
    twins: tuple[Twin, ...] = ()

    def identity(self) -> Representation:
        """Return the representation that is the file itself."""
        return Representation(
            self.path, self.size, self.id, self.sha256, self.media_type, self.origin, self.pieces
        )

    def twin(self, suffix: str) -> Representation | None:
        """Return the twin of this suffix as a representation, or None."""
        for twin in self.twins:
            if twin.suffix == suffix:
                return Representation(
                    self.path + suffix,
                    twin.size,
                    twin.id,
                    twin.id,
                    "application/zstd",
                    twin.origin,
                    twin.pieces,
                )
        return None

    def representations(self) -> Iterator[Representation]:
        """Yield identity first, then every twin."""
        yield self.identity()
        for twin in self.twins:
            representation = self.twin(twin.suffix)
            assert representation is not None
            yield representation


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version: its files and where they come from.

    Attributes:
        model: two segments.
        version: immutable id.
        published_at: milliseconds since the epoch.
        files: by rising path, each path once.
        metadata: the publisher's own strings.
    """

    model: str
    version: str
    published_at: int
    files: tuple[File, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def file(self, path: str) -> File | None:
        """Return the file of exactly this path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def representation(self, path: str) -> Representation | None:
        """Return what a URL path names: a file, or else a twin of one; None if neither."""
        file = self.file(path)
        if file is not None:
            return file.identity()
        for suffix in TWIN_SUFFIXES:
            if path.endswith(suffix):
                file = self.file(path.removesuffix(suffix))
                return None if file is None else file.twin(suffix)
        return None

    def dump(self) -> bytes:
        """Serialize; the same manifest always gives the same bytes."""
        return documents.dump_json(
            {
                "format": FORMAT,
                "model": self.model,
                "version": self.version,
                "published_at": format_timestamp(self.published_at),
                "metadata": dict(self.metadata),
                "files": [_dump_file(file) for file in self.files],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Parse a manifest; members that are not known are ignored.

        Raises:
            FormatError: anything else than a manifest of format 1.
        """
        document = documents.load_json(data, _WHAT)
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Document) -> Manifest:
        """Read a manifest out of a parsed document (errors as parse)."""
        number = document.integer("format")
        if number != FORMAT:
            raise FormatError(_WHAT, f"format {number}: this hotstart reads format {FORMAT}; upgrade it")
        if "files" not in document.members:
            raise FormatError(_WHAT, "files is missing")
        files = tuple(_parse_file(file) for file in document.members_of("files"))
        # Twins too: each path is a URL of its own.
        paths = [representation.path for file in files for representation in file.representations()]
        if len(set(paths)) != len(paths):
            raise FormatError(_WHAT, "a path stands in it twice")
        return cls(
            model=document.check("model", check_model, document.text("model")),
            version=document.check("version", check_version, document.text("version")),
            published_at=parse_timestamp(document.text("published_at"), _WHAT),
            files=tuple(sorted(files, key=lambda file: file.path)),
            metadata=document.texts("metadata"),
        )


def _dump_file(file: File) -> dict[str, object]:
    members: dict[str, object] = {
        "path": file.path,
        "size": file.size,
        "sha256": file.sha256,
        "id": file.id,
        "media_type": file.media_type,
        "origin": _dump_origin(file.origin),
    }
    if file.header_length is not None:
        members["header_length"] = file.header_length
    if file.pieces is not None:
        members["pieces"] = dump_pieces(file.pieces)
    members["twins"] = [dump_twin(twin) for twin in file.twins]
    return members


def _parse_file(document: Document) -> File:
    size = document.integer("size")
    sha256 = document.optional_text("sha256")
    content_id = _content_id(document, "id")
    if sha256 is not None and sha256 != content_id:
        raise FormatError(document.what, "id and sha256 of a published file differ")
    pieces = document.optional_member("pieces")
    header_length = document.optional_integer("header_length", maximum=MAX_HEADER_BYTES)
    if header_length is not None and header_length + 8 > size:
        raise FormatError(document.what, f"header_length {header_length} does not fit a file of {size} bytes")
    return File(
        path=document.check("path", check_file, document.text("path")),
        size=size,
        sha256=sha256,
        id=content_id,
        media_type=_header_value(document, "media_type"),
        origin=_parse_origin(document.member("origin")),
        header_length=header_length,
        pieces=None if pieces is None else parse_pieces(pieces, size),
        twins=tuple(
            sorted(
                (parse_twin(twin) for twin in document.members_of("twins") if _is_known_twin(twin)),
                key=lambda twin: twin.suffix,
            )
        ),
    )


def _is_known_twin(document: Document) -> bool:
    return document.text("suffix") in TWIN_SUFFIXES


def dump_twin(twin: Twin) -> dict[str, object]:
    """Return a twin's members, as in the manifest and in ``twins-<suffix>.json``."""
    return {
        "suffix": twin.suffix,
        "size": twin.size,
        "id": twin.id,
        "origin": _dump_origin(twin.origin),
        "pieces": dump_pieces(twin.pieces),
        "seek_table": base64.b64encode(twin.seek_table).decode("ascii"),
    }


def parse_twin(document: Document) -> Twin:
    """Parse what dump_twin made (errors as ``Manifest.parse``)."""
    size = document.integer("size")
    return Twin(
        suffix=document.text("suffix"),
        size=size,
        id=_content_id(document, "id"),
        origin=_parse_origin(document.member("origin")),
        pieces=parse_pieces(document.member("pieces"), size),
        seek_table=document.base64("seek_table"),
    )


def dump_pieces(pieces: Pieces) -> dict[str, object]:
    """Return the members that stand for pieces in a manifest."""
    packed = struct.pack(f"<{len(pieces.crc32)}I", *pieces.crc32)
    return {
        "size": PIECE_BYTES,
        "crc32": base64.b64encode(packed).decode("ascii"),
        "sha256_16": base64.b64encode(pieces.sha256_16).decode("ascii"),
    }


def parse_pieces(document: Document, size: int) -> Pieces:
    """Parse what dump_pieces made for a representation of size bytes (errors as ``Manifest.parse``)."""
    if document.integer("size") != PIECE_BYTES:
        raise FormatError(
            document.what, f"pieces of {document.integer('size')} bytes: expected {PIECE_BYTES}"
        )
    packed = document.base64("crc32")
    if len(packed) != 4 * piece_count(size):
        raise FormatError(document.what, f"{len(packed)} bytes of crc32 for {piece_count(size)} pieces")
    return Pieces(struct.unpack(f"<{len(packed) // 4}I", packed), document.base64("sha256_16"))


def _dump_origin(origin: OriginObject) -> dict[str, object]:
    return {"key": origin.key, "etag": origin.etag, "version_id": origin.version_id}


def _parse_origin(document: Document) -> OriginObject:
    key = document.text("key")
    if (
        not key
        or key.startswith("/")
        or "\0" in key
        or any(part in ("", ".", "..") for part in key.split("/"))
    ):
        raise FormatError(document.what, f"key {key[:120]!r} is not a plain relative key")
    return OriginObject(key, _header_value(document, "etag"), document.optional_text("version_id"))


def _header_value(document: Document, key: str) -> str:
    # It goes into a header as it is, so nothing in it may end one.
    text = document.text(key)
    if not (text and text.isascii() and text.isprintable()):
        raise FormatError(document.what, f"{key} {text[:80]!r}: expected printable ASCII")
    return text


def _content_id(document: Document, key: str) -> str:
    text = document.text(key)
    if not is_content_id(text):
        raise FormatError(document.what, f"{key} {text[:80]!r}: expected 64 lower-case hex digits")
    return text
