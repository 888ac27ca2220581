"""Hostile manifests, each with the error it must give."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, Manifest, OriginObject, Twin
from hotstart.wire.pieces import Pieces

ID = "ab" * 32
GOOD = Manifest(
    "org/bert",
    "7",
    1795491014123,
    (
        File(
            "model.safetensors",
            100,
            ID,
            ID,
            "application/octet-stream",
            OriginObject("org/bert/7/model.safetensors", '"e"'),
            80,
            Pieces((1,), bytes(16)),
            (
                Twin(
                    ".zst",
                    50,
                    ID,
                    OriginObject("org/bert/7/model.safetensors.zst", '"e"'),
                    Pieces((1,), b""),
                    b"",
                ),
            ),
        ),
        File("config.json", 2, ID, ID, "application/json", OriginObject("org/bert/7/config.json", '"e"')),
    ),
)


def put(*place: str | int) -> Callable[[object], Callable[[Any], None]]:
    """Return what makes a change: put(place...)(value) sets the member at this place of the document."""

    def with_value(value: object) -> Callable[[Any], None]:
        def change(document: Any) -> None:
            for key in place[:-1]:
                document = document[key]
            document[place[-1]] = value

        return change

    return with_value


def drop(*place: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return change


def twice(document: Any) -> None:
    document["files"].append(document["files"][1])


def twin_twice(document: Any) -> None:
    document["files"][0]["twins"] *= 2


WEIGHTS = ("files", 0)
TWIN = (*WEIGHTS, "twins", 0)

# Name: change to a good manifest, what the error says.
HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no format": (drop("format"), "format is missing"),
    "format 2": (put("format")(2), "format 2: this hotstart reads format 1; upgrade it"),
    "format true": (put("format")(True), "format: expected int, found bool"),
    "format 1.0": (put("format")(1.0), "format: expected int, found float"),
    "no model": (drop("model"), "model is missing"),
    "a model of three segments": (put("model")("a/b/c"), "model: 'a/b/c' is not a valid reference"),
    "a model that climbs": (put("model")("../x"), "model: '../x' is not a valid reference"),
    "a version that is a path": (put("version")("7/8"), "version: '7/8' is not a valid reference"),
    "a version named latest": (put("version")("latest"), "version: 'latest' is not a valid reference"),
    "a version that is a number": (put("version")(7), "version: expected str, found int"),
    "no time": (drop("published_at"), "published_at is missing"),
    "a time in another zone": (put("published_at")("2026-11-24T03:30:14+01:00"), "expected RFC 3339 in UTC"),
    "a day that is none": (put("published_at")("2026-02-30T00:00:00Z"), "day"),
    "metadata of numbers": (put("metadata")({"a": 1}), "metadata: expected strings"),
    "no files": (drop("files"), "files is missing"),
    "files that are an object": (put("files")({}), "files: expected list, found dict"),
    "a file that is text": (put("files", 0)("model.safetensors"), "files: expected a list of objects"),
    "a path that climbs": (put(*WEIGHTS, "path")("../7/x"), "files[0]: path: '../7/x' is not"),
    "an absolute path": (put(*WEIGHTS, "path")("/etc/passwd"), "empty segment"),
    "a reserved path": (put(*WEIGHTS, "path")(".hotstart/x"), "are reserved"),
    "a path with a line feed": (put(*WEIGHTS, "path")("a\nb"), "unprintable characters"),
    "a path twice": (twice, "a path stands in it twice"),
    "a file in the place of a twin": (put("files", 1, "path")("model.safetensors.zst"), "stands in it twice"),
    "two twins of one kind": (twin_twice, "a path stands in it twice"),
    "a negative size": (put(*WEIGHTS, "size")(-1), "size: -1 is not within"),
    "a size of 2^63": (put(*WEIGHTS, "size")(2**63), "size: 9223372036854775808 is not within"),
    "a size of 1 TiB with pieces for less": (
        put(*WEIGHTS, "size")(2**40),
        "4 bytes of crc32 for 262144 pieces",
    ),
    "a size that is text": (put(*WEIGHTS, "size")("100"), "size: expected int, found str"),
    "an id in upper case": (put(*WEIGHTS, "id")("AB" * 32), "expected 64 lower-case hex digits"),
    "an id that is a path": (put(*WEIGHTS, "id")("../" * 20), "expected 64 lower-case hex digits"),
    "another id than sha256": (put(*WEIGHTS, "id")("cd" * 32), "id and sha256 of a published file differ"),
    "a media type that ends a header": (
        put(*WEIGHTS, "media_type")("text/html\r\nSet-Cookie: a=b"),
        "media_type 'text/html\\r\\nSet-Cookie: a=b': expected printable ASCII",
    ),
    "an empty media type": (put(*WEIGHTS, "media_type")(""), "expected printable ASCII"),
    "no origin": (drop(*WEIGHTS, "origin"), "origin is missing"),
    "an etag that ends a header": (put(*WEIGHTS, "origin", "etag")('"e"\n'), "expected printable ASCII"),
    "a key that climbs": (put(*WEIGHTS, "origin", "key")("a/../../b"), "is not a plain relative key"),
    "an absolute key": (put(*WEIGHTS, "origin", "key")("/etc/passwd"), "is not a plain relative key"),
    "an empty key": (put(*WEIGHTS, "origin", "key")(""), "is not a plain relative key"),
    "a key with NUL": (put(*WEIGHTS, "origin", "key")("a\0b"), "is not a plain relative key"),
    "a header longer than its file": (put(*WEIGHTS, "header_length")(93), "does not fit a file of 100 bytes"),
    "a header of 1 GB": (put(*WEIGHTS, "header_length")(10**9), "is not within 0 to 100000000"),
    "pieces of another size": (put(*WEIGHTS, "pieces", "size")(1), "pieces of 1 bytes: expected 4194304"),
    "too many pieces": (
        put(*WEIGHTS, "pieces", "crc32")(base64.b64encode(bytes(8)).decode()),
        "8 bytes of crc32 for 1 pieces",
    ),
    "pieces that are not base64": (put(*WEIGHTS, "pieces", "crc32")("!!!!"), "crc32: not base64"),
    "pieces in another base64": (put(*WEIGHTS, "pieces", "crc32")("_-8AAA=="), "crc32: not base64"),
    "sha256_16 for half a piece": (
        put(*WEIGHTS, "pieces", "sha256_16")(base64.b64encode(bytes(8)).decode()),
        "1 crc32 but 8 bytes of sha256_16",
    ),
    "a twin without a kind": (drop(*TWIN, "suffix"), "suffix is missing"),
    "a twin without pieces": (drop(*TWIN, "pieces"), "twins[0]: pieces is missing"),
    "a twin's seek table in another base64": (put(*TWIN, "seek_table")("é"), "seek_table: not base64"),
    "a twin's id that is none": (put(*TWIN, "id")("x"), "expected 64 lower-case hex digits"),
}


def hostile(change: Callable[[Any], None]) -> bytes:
    document = json.loads(GOOD.dump())
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", HOSTILE)
def test_error(name: str) -> None:
    """A hostile manifest gives the one error, which says where and what is wrong."""
    change, message = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        Manifest.parse(hostile(change))
    assert caught.value.what.startswith("manifest") or caught.value.what == "pieces"
    assert message in f"{caught.value.what}: {caught.value.reason}"
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}" * 2, b"[" * 100_000])
def test_no_document(data: bytes) -> None:
    """What is no JSON object is no manifest."""
    with pytest.raises(FormatError, match="malformed manifest"):
        Manifest.parse(data)


def test_good_manifest_is_good() -> None:
    """The manifest that the hostile ones are made from is read."""
    assert len(Manifest.parse(hostile(lambda document: None)).files) == 2
