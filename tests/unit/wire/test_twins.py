"""The document of twins that were added to an adopted version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, OriginObject, Twin
from hotstart.wire.pieces import Pieces
from hotstart.wire.twins import AddedTwin, AddedTwins

TWIN = Twin(".zst", 5, "cd" * 32, OriginObject("o/b/7/m.safetensors.zst", '"z"'), Pieces((7,), b""), b"table")
DOCUMENT = AddedTwins("o/b", "7", ".zst", (AddedTwin("m.safetensors", "ab" * 32, TWIN),))
FILE = File("m.safetensors", 9, None, "ab" * 32, "application/octet-stream", OriginObject("k", '"e"'))


def test_a_document_comes_back_as_it_was() -> None:
    """What is dumped is parsed to the same, and members that are not known are ignored."""
    assert AddedTwins.parse(DOCUMENT.dump()) == DOCUMENT
    members = json.loads(DOCUMENT.dump())
    members["later"] = members["files"][0]["later"] = {"a": 1}
    assert AddedTwins.parse(json.dumps(members).encode()) == DOCUMENT


def test_twins_join_their_files_only() -> None:
    """A twin is added to the file of its path and content id, beside twins of other suffixes, by suffix."""
    planes = Twin(".zsp", 5, "ef" * 32, OriginObject("k.zsp", '"z"'), Pieces((7,), b""), b"")
    with_planes = File(**{**_members(FILE), "twins": (planes,)})
    other = File(**{**_members(FILE), "path": "n.safetensors"})
    changed = File(**{**_members(FILE), "id": "00" * 32})
    (merged,) = DOCUMENT.merge([with_planes])
    assert merged.twins == (planes, TWIN)
    assert DOCUMENT.merge([other, changed]) == (other, changed)


def test_merging_twice_changes_nothing() -> None:
    """A twin that is there already is not doubled."""
    once = DOCUMENT.merge([FILE])
    assert DOCUMENT.merge(once) == once


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), 2, "format 2"),
        (("suffix",), ".gz", "suffix"),
        (("suffix",), ".zsp", "among those of .zsp"),
        (("model",), "a/b/c", "model"),
        (("version",), "latest", "version"),
        (("files", 0, "path"), "../x", "path"),
        (("files", 0, "id"), "xyz", "64 lower-case hex digits"),
        (("files", 0, "twin"), None, "twin is missing"),
        (("files", 0, "twin", "size"), -1, "size"),
        (("files",), "x", "files"),
    ],
)
def test_a_wrong_document_is_refused(path: tuple[str | int, ...], value: object, reason: str) -> None:
    """Anything else than such a document is the one documented error."""
    members: Any = json.loads(DOCUMENT.dump())
    place = members
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(FormatError, match=reason):
        AddedTwins.parse(json.dumps(members).encode())


def test_a_path_stands_in_it_once() -> None:
    """Two twins of one file and suffix are an error."""
    twice = AddedTwins("o/b", "7", ".zst", DOCUMENT.twins * 2)
    with pytest.raises(FormatError, match="twice"):
        AddedTwins.parse(twice.dump())


def _members(file: File) -> dict[str, Any]:
    return {name: getattr(file, name) for name in File.__slots__}
