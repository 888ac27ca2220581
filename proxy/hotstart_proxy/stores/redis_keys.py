"""Redis layout 1: the names of the keys, and the bytes of a blob's record (docs/format.md).

The braces make the hash tag, which decides a key's slot in a cluster: a blob's record and lease share one, so
that one script sees both; its chunks are spread over all slots.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hotstart.wire.pieces import piece_count

__all__ = [
    "ENTRY_BYTES",
    "GENERATION_BYTES",
    "HEADER_BYTES",
    "LEDGER",
    "LEDGER_LAYOUT",
    "PREFIX",
    "Record",
    "State",
    "blob_key",
    "chunk_key",
    "document_name",
    "lease_key",
    "model_key",
    "new_header",
]

PREFIX: Final = "hs1:"
# What all blobs, fills included, take of the budget: a hash, id to size. Its field "layout" says that it is
# whole: one that has vanished is empty, and an empty one would let everything in.
LEDGER: Final = "hs1:u:{blobs}"
LEDGER_LAYOUT: Final = b"layout"
# Documents that belong to no model; no model's name begins so.
_NO_MODEL = "."
_MAGIC = b"HSBLOB1\0"
# Magic, size, generation, time of the last change in ms since the epoch by Redis's clock, state, zero.
_HEADER = struct.Struct("<8sQ8sQII")
_ENTRY = struct.Struct("<II")
HEADER_BYTES: Final = _HEADER.size
ENTRY_BYTES: Final = _ENTRY.size
GENERATION_BYTES: Final = 8


def blob_key(content_id: str) -> str:
    """Return the name of a blob's record."""
    return f"{PREFIX}b:{{{content_id}}}"


def chunk_key(content_id: str, piece: int) -> str:
    """Return the name of the chunk that holds one piece."""
    return f"{PREFIX}c:{{{content_id}.{piece}}}"


def lease_key(content_id: str) -> str:
    """Return the name of the lease of a blob's fill."""
    return f"{PREFIX}l:{{{content_id}}}"


def model_key(document: str) -> tuple[str, str]:
    """Return the name of the hash that holds a document, and the field in it."""
    model, field = _split(document)
    return f"{PREFIX}m:{{{model}}}", field


def _split(document: str) -> tuple[str, str]:
    match document.split("/", 2):
        case [organisation, model, field]:
            return f"{organisation}/{model}", field
        case _:
            return _NO_MODEL, document


def document_name(key: str, field: str) -> str:
    """Return the name of the document in a field of a model's hash."""
    model = key.removeprefix(f"{PREFIX}m:{{").removesuffix("}")
    return field if model == _NO_MODEL else f"{model}/{field}"


class State(IntEnum):
    """What a record says of its blob."""

    FILLING = 0
    COMPLETE = 1
    HEALING = 2
    """It was complete, and has lost pieces since; what is left is as good as it was."""


def new_header(size: int, generation: bytes) -> bytes:
    """Return the header of a record that is begun; the script that stores it sets the time."""
    return _HEADER.pack(_MAGIC, size, generation, 0, State.FILLING, 0)


@dataclass(frozen=True, slots=True)
class Record:
    """A blob's record.

    Attributes:
        size: of the blob, in bytes.
        generation: of this record; random, another each time that a blob is begun anew.
        changed_ms: since the epoch, by Redis's clock, when a piece came or went.
        state: of the blob.
        crc32: per piece its digest, or None where it is not there; empty if only the header was read.
    """

    size: int
    generation: bytes
    changed_ms: int
    state: State
    crc32: tuple[int | None, ...]

    @classmethod
    def parse(cls, data: bytes | None) -> Record | None:
        """Read a record or its header; None if there is none or it is none of ours."""
        if data is None or len(data) < HEADER_BYTES:
            return None
        magic, size, generation, changed_ms, state, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC or state not in State.__members__.values():
            return None
        if len(data) == HEADER_BYTES:
            return cls(size, generation, changed_ms, State(state), ())
        if len(data) != HEADER_BYTES + ENTRY_BYTES * piece_count(size):
            return None
        entries = _ENTRY.iter_unpack(data[HEADER_BYTES:])
        crc32 = tuple(value if done == 1 else None for done, value in entries)
        return cls(size, generation, changed_ms, State(state), crc32)
