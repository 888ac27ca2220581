"""The manifest, format 1."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, Manifest, OriginObject, Twin
from hotstart.wire.pieces import PIECE_BYTES, Pieces

ID = "ab" * 32
TWIN_ID = "cd" * 32

WEIGHTS = File(
    path="model.safetensors",
    size=PIECE_BYTES + 1,
    sha256=ID,
    id=ID,
    media_type="application/octet-stream",
    origin=OriginObject("org/bert/7/model.safetensors", '"e1"', "v1"),
    header_length=1000,
    pieces=Pieces((1, 2**32 - 1), bytes(range(32))),
    twins=(
        Twin(
            ".zst",
            10,
            TWIN_ID,
            OriginObject("org/bert/7/model.safetensors.zst", '"e2"'),
            Pieces((zlib.crc32(b"x"),), bytes(16)),
            b"table",
        ),
    ),
)
EMPTY = File(
    "a/empty.txt", 0, "0" * 64, "0" * 64, "text/plain", OriginObject("k", '"e"'), pieces=Pieces((), b"")
)
ADOPTED = File("z.bin", 5, None, "1" * 64, "application/octet-stream", OriginObject("k2", '"e3"'))
MANIFEST = Manifest("org/bert", "7", 1795491014123, (EMPTY, WEIGHTS, ADOPTED), {"licence": "MIT"})


def test_round_trip() -> None:
    """What is written is read back the same, and the same manifest always gives the same bytes."""
    data = MANIFEST.dump()
    assert Manifest.parse(data) == MANIFEST
    assert Manifest.parse(data).dump() == data


def test_bytes_are_as_designed() -> None:
    """The bytes of format 1 are what the design says, and never change."""
    document = json.loads(MANIFEST.dump())
    assert list(document) == ["format", "model", "version", "published_at", "metadata", "files"]
    assert document["published_at"] == "2026-11-24T03:30:14.123Z"
    weights = document["files"][1]
    assert weights["pieces"]["size"] == 4194304
    assert base64.b64decode(weights["pieces"]["crc32"]) == b"\x01\0\0\0\xff\xff\xff\xff"
    assert base64.b64decode(weights["pieces"]["sha256_16"]) == bytes(range(32))
    assert weights["origin"] == {"key": "org/bert/7/model.safetensors", "etag": '"e1"', "version_id": "v1"}
    assert base64.b64decode(weights["twins"][0]["seek_table"]) == b"table"
    assert document["files"][2]["sha256"] is None


def test_representations() -> None:
    """Each URL path names one representation: a file, or a twin under its own suffix."""
    assert MANIFEST.file("model.safetensors") is WEIGHTS or MANIFEST.file("model.safetensors") == WEIGHTS
    identity = MANIFEST.representation("model.safetensors")
    twin = MANIFEST.representation("model.safetensors.zst")
    assert identity is not None
    assert twin is not None
    assert (identity.path, identity.size, identity.id, identity.sha256) == (
        WEIGHTS.path,
        WEIGHTS.size,
        ID,
        ID,
    )
    assert (twin.path, twin.size, twin.id, twin.sha256) == ("model.safetensors.zst", 10, TWIN_ID, TWIN_ID)
    assert twin.media_type == "application/zstd"
    assert twin.pieces is not None
    assert list(WEIGHTS.representations()) == [identity, twin]
    for absent in ("model.safetensors.zsp", "z.bin.zst", "Model.safetensors", "", "nothing", "nothing.zst"):
        assert MANIFEST.representation(absent) is None


def changed(change: Callable[[Any], object]) -> bytes:
    document = json.loads(MANIFEST.dump())
    change(document)
    return json.dumps(document).encode()


def test_unknown_members_are_ignored() -> None:
    """A later writer may add members at every level, and twins of kinds that are not known here."""

    def extend(document: Any) -> None:
        document["signature"] = {"k": [1.5]}
        document["parent"] = "6"
        for file in document["files"]:
            file["new"] = file["origin"]["new"] = 1
            file["twins"].append({"suffix": ".new", "size": "many"})

    assert Manifest.parse(changed(extend)) == MANIFEST


def test_order_of_files_and_twins() -> None:
    """Files and twins come by rising name, however they were written."""
    found = Manifest.parse(changed(lambda document: document["files"].reverse()))
    assert [file.path for file in found.files] == ["a/empty.txt", "model.safetensors", "z.bin"]


def test_no_files_is_a_version_too() -> None:
    """An empty version can be written and read, but a manifest that lost its files cannot."""
    empty = Manifest("org/bert", "7", 0, ())
    assert Manifest.parse(empty.dump()) == empty
    with pytest.raises(FormatError, match="files is missing"):
        Manifest.parse(changed(lambda document: document.pop("files")))
