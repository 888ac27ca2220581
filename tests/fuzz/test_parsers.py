"""Any bytes are parsed or raise the one documented error."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.wire.adoption import Layout
from hotstart.wire.claim import Claim, ClaimedFile
from hotstart.wire.errors import FormatError, InvalidReference
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.frames import FrameDecoder
from hotstart.wire.framing import FrameEncoder
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.manifest import File, Manifest, OriginObject, Twin
from hotstart.wire.opening import Fallback, Opening
from hotstart.wire.pieces import Pieces
from hotstart.wire.planes import check_prefix, dump_prefix, frame_widths, identity_table
from hotstart.wire.ranges import parse_content_range, parse_range
from hotstart.wire.references import NotCanonical, parse_reference, parse_url_path
from hotstart.wire.safetensors import LENGTH_BYTES, build_header, parse_header, parse_header_length
from hotstart.wire.seek_table import FOOTER_BYTES, SeekTable, table_length
from hotstart.wire.selection import INDEX_FILE, select_weights
from hotstart.wire.timestamps import format_timestamp, parse_timestamp
from hotstart.wire.twins import AddedTwin, AddedTwins

QUICK = settings(max_examples=300, deadline=None)

ID = "ab" * 32
MANIFEST = Manifest(
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
            OriginObject("k", '"e"', "v"),
            80,
            Pieces((1,), bytes(16)),
            (Twin(".zst", 50, ID, OriginObject("k.zst", '"e"'), Pieces((1,), b""), b"t"),),
        ),
        File(INDEX_FILE, 2, None, ID, "application/json", OriginObject("i", '"e"')),
    ),
    {"a": "b"},
)
CONTENT = b"hotstart " * 40 + bytes(300)


def parse_frame(data: bytes) -> bytes:
    """Decode data as if a plan said that it is the frame of CONTENT."""
    destination = bytearray(len(CONTENT))
    FrameDecoder().decode_into(memoryview(data), memoryview(destination))
    assert destination == CONTENT, "a damaged frame was taken for another content"
    return bytes(destination)


def parse_file(data: bytes) -> None:
    header = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + parse_header_length(data[:LENGTH_BYTES])], None)
    assert sum(info.stop - info.start for info in header.tensors.values()) == header.data_bytes


def rewrite_manifest(data: bytes) -> None:
    manifest = Manifest.parse(data)
    assert Manifest.parse(manifest.dump()) == manifest


def rewrite_index(data: bytes) -> None:
    index = Index.parse(data)
    again = Index.parse(index.dump())
    assert (again.aliases, again.serial, len(again.versions)) == (
        index.aliases,
        index.serial,
        len(index.versions),
    )


PLANES_FILE = build_header([("a", "F32", (2,)), ("b", "U8", (2,)), ("c", "F16", (9,))])
PLANES_HEADER = parse_header(PLANES_FILE[LENGTH_BYTES:], None)


def parse_planes_table(data: bytes) -> None:
    """Read a seek table as that of planes of PLANES_FILE."""
    table = identity_table(SeekTable.parse(data))
    widths = frame_widths(PLANES_HEADER, table)
    assert len(widths) == len(table.entries)
    for entry, width in zip(table.entries[1:], widths[1:], strict=True):
        assert len(entry.content) % width == 0


def parse_prefix(data: bytes) -> None:
    assert check_prefix(memoryview(data)) == PLANES_FILE, "another header was taken for that of the prefix"


# Parser, and bytes that it takes, to start from.
PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "header": (parse_file, build_header([("a", "F32", (2,)), ("b", "F4", (2, 0))], {"k": "v"})),
    "frame": (parse_frame, FrameEncoder().encode(CONTENT)),
    "seek table": (SeekTable.parse, SeekTable.of([(100, 60), (7, 20)]).dump()),
    "seek table of planes": (
        parse_planes_table,
        SeekTable.of([(20 + len(PLANES_FILE), 60), (8, 20), (2, 20), (10, 30), (8, 20)]).dump(),
    ),
    "prefix of planes": (parse_prefix, dump_prefix(PLANES_FILE) + PLANES_FILE),
    "footer": (table_length, SeekTable.of([(100, 60)]).dump()[-FOOTER_BYTES:]),
    "manifest": (rewrite_manifest, MANIFEST.dump()),
    "index": (
        rewrite_index,
        Index("org/bert", 3, (IndexEntry("7", 5, ID), IndexEntry("8", 6)), {"prod": "7"}).dump(),
    ),
    "opening": (
        Opening.parse,
        Opening(MANIFEST, MANIFEST.dump(), Fallback({"a": "https://b"}, 5), {"a": 1}).dump(),
    ),
    "claim": (Claim.parse, Claim("org/bert", "7", (ClaimedFile("a", 1, ID),)).dump()),
    "fallback manifest": (
        FallbackManifest.parse,
        FallbackManifest(
            "org/bert",
            "7",
            MANIFEST,
            MANIFEST.dump(),
            {"model.safetensors": "https://b/c"},
            1,
            3,
            2,
            ("prod",),
        ).dump(),
    ),
    "twins document": (
        AddedTwins.parse,
        AddedTwins(
            "org/bert", "7", ".zst", (AddedTwin("model.safetensors", ID, MANIFEST.files[0].twins[0]),)
        ).dump(),
    ),
    "layout": (
        lambda data: Layout.parse(data.decode("utf-8", "replace")).match("a/b/c/d"),
        b"{model}/models/{version}/{file}",
    ),
    "index of shards": (
        lambda data: select_weights(MANIFEST, None, lambda _: data),
        b'{"weight_map":{"a":"model.safetensors"}}',
    ),
}


@pytest.mark.parametrize("name", PARSERS)
def test_starting_points_are_good(name: str) -> None:
    """What the mutations start from is accepted, so that they reach deep."""
    parse, good = PARSERS[name]
    parse(good)


def check_outcome(parse: Callable[[bytes], object], data: bytes) -> None:
    """Parse data; the one error may come, with a message that fits a log, and no other."""
    message = ""
    try:
        parse(data)
    except FormatError as error:
        message = str(error)
    assert len(message) < 1000


@st.composite
def mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """Cut, repeat, overwrite and insert in good bytes."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + draw(st.sampled_from([0, 1, 4, 1000])))))
        data[start:stop] = draw(st.one_of(st.binary(max_size=9), st.just(bytes(data[start:stop]) * 2)))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
@QUICK
@given(data=st.data())
def test_bytes(name: str, data: st.DataObject) -> None:
    """Random and mutated bytes are parsed or are the one error; nothing else is ever raised."""
    parse, good = PARSERS[name]
    check_outcome(parse, data.draw(st.one_of(st.binary(max_size=200), mutations(good))))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(max_size=12),
        st.sampled_from(["U8", "F4", ID, "7", "org/bert", ".zst", "2026-11-24T03:30:14Z", "AAAA", "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NOT_JSON = {"frame", "seek table", "seek table of planes", "prefix of planes", "footer", "layout"}
JSON_PARSERS = sorted(PARSERS.keys() - NOT_JSON)


@st.composite
def altered(draw: st.DrawFn, good: bytes) -> bytes:
    """Put other values, of any type, in places of a good document."""
    document = json.loads(good)
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(VALUES)
            break
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", JSON_PARSERS)
@QUICK
@given(data=st.data())
def test_documents(name: str, data: st.DataObject) -> None:
    """Well-formed documents with wrong values in them are parsed or are the one error."""
    parse, good = PARSERS[name]
    if name == "header":
        check_outcome(lambda text: parse_header(text, None), data.draw(altered(good[LENGTH_BYTES:])))
    else:
        check_outcome(parse, data.draw(altered(good)))


PATHS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [
                "org",
                "bert",
                "@",
                "7",
                "/",
                ".",
                "..",
                "%",
                "%40",
                "%2F",
                "%2e",
                ".hotstart",
                "a",
                ":",
                "\\",
                "é",
                "\0",
            ]
        ),
        max_size=14,
    ).map("".join),
)


@settings(max_examples=1000, deadline=None)
@given(text=PATHS)
def test_references(text: str) -> None:
    """Any text is a reference or the one error; what is one is written and read back, in both spellings."""
    try:
        reference = parse_reference(text)
    except InvalidReference:
        pass
    else:
        assert parse_reference(str(reference)) == reference
        assert parse_url_path(reference.url_path()) == reference
        assert ".." not in str(reference).split("/")
    try:
        reference = parse_url_path(text)
    except NotCanonical as error:
        # One redirect is enough.
        reference = parse_url_path(error.location)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == reference
    assert not (reference.file or "").startswith(("/", ".hotstart"))


@QUICK
@given(
    value=st.one_of(st.text(max_size=40), st.from_regex(r"bytes=\d{0,22}-\d{0,22}", fullmatch=True)),
    size=st.integers(0, 2**63 - 1),
)
def test_range_headers(value: str, size: int) -> None:
    """Any Range is a range within the representation, the whole, or not satisfiable."""
    try:
        wanted = parse_range(value, size)
    except FormatError:
        return
    if wanted is not None:
        assert 0 <= wanted.start < wanted.stop <= size


@QUICK
@given(
    value=st.one_of(
        st.text(max_size=40), st.from_regex(r"bytes \d{1,20}-\d{1,20}/(\d{1,20}|\*)", fullmatch=True)
    )
)
def test_content_ranges(value: str) -> None:
    """Any Content-Range is a range within its size, or the one error."""
    try:
        found, size = parse_content_range(value)
    except FormatError:
        return
    assert len(found) > 0
    assert size is None or found.stop <= size


@QUICK
@given(
    value=st.one_of(
        st.text(max_size=30),
        st.from_regex(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,7})?Z", fullmatch=True),
        st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    )
)
def test_timestamps(value: str) -> None:
    """Any text is a time that is written and read back, or the one error."""
    try:
        milliseconds = parse_timestamp(value, "x")
    except FormatError:
        return
    assert parse_timestamp(format_timestamp(milliseconds), "x") == milliseconds
