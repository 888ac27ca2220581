"""Hostile frames of byte planes: each trap of zstd frames, in the frame of the header and in another."""

from __future__ import annotations

import random

import pytest
import zstandard

from hotstart.engine.decoding import TwinDecoder
from hotstart.engine.targets import TwinPlan
from hotstart.wire.errors import FormatError
from hotstart.wire.framing import FrameEncoder
from hotstart.wire.manifest import File, OriginObject, Twin
from hotstart.wire.pieces import Pieces
from hotstart.wire.safetensors import LENGTH_BYTES, build_header, parse_header
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX, plan_twin

HEADER = build_header([("t", "BF16", (3000,))])
FILE = HEADER + random.Random(1).randbytes(3000) + bytes(3000)
PARSED = parse_header(HEADER[LENGTH_BYTES:], len(FILE))
FORM = plan_twin(PLANES_SUFFIX, PARSED, len(FILE))
CONTENTS = [
    bytes(FORM.content(index, FILE[place.start : place.stop])) for index, place in enumerate(FORM.frames)
]
FRAMES = [FrameEncoder().encode(content) for content in CONTENTS]


def plan_of(contents: list[int], file_size: int = len(FILE)) -> TwinPlan:
    """Return the plan of a twin whose seek table says that its frames hold so many bytes."""
    table = SeekTable.of(zip(contents, map(len, FRAMES), strict=True)).dump()
    origin = OriginObject("k", '"e"')
    size = sum(map(len, FRAMES)) + len(table)
    twin = Twin(PLANES_SUFFIX, size, "ab" * 32, origin, Pieces((1,), b""), table)
    return TwinPlan(
        File("m.safetensors", file_size, "cd" * 32, "cd" * 32, "x/y", origin, twins=(twin,)), twin
    )


@pytest.fixture
def plan() -> TwinPlan:
    """The plan of the twin as it is, with its header known."""
    made = plan_of([len(content) for content in CONTENTS])
    made.learn(PARSED)
    return made


def recompressed(content: bytes, *, checksum: bool = True, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size).compress(content)


def damaged(index: int, name: str) -> tuple[bytes, str]:
    """Return frame index with something wrong, and what the error says."""
    frame, content = FRAMES[index], CONTENTS[index]
    return {
        "no checksum": (recompressed(content, checksum=False), "no checksum"),
        "no content size": (recompressed(content, size=False), "no content size"),
        "one byte less": (recompressed(content[:-1]), f"the plan says {len(content)}"),
        "one byte more": (recompressed(content + b"x"), f"the plan says {len(content)}"),
        "the file's own bytes": (
            recompressed(FILE[FORM.frames[0].start : FORM.frames[0].stop]),
            f"claims {FORM.frames[0].stop} bytes of content",
        ),
        **{f"truncated by {n}": (frame[:-n], f"its last {n} bytes are missing") for n in range(1, 5)},
        "truncated by half": (frame[: len(frame) // 2], "truncated"),
        "garbage behind it": (frame + b"\0", "1 bytes follow its end"),
        "a second frame": (frame + frame, "bytes follow its end"),
        "a flipped bit": (frame[:-9] + bytes((frame[-9] ^ 1,)) + frame[-8:], "damaged: "),
        "a flipped bit in the checksum": (frame[:-1] + bytes((frame[-1] ^ 1,)), "damaged: "),
        "no frame": (b"HSPLANE1" + frame, "expected 28b52ffd"),
    }[name]


TRAPS = [
    "no checksum",
    "no content size",
    "one byte less",
    "one byte more",
    "the file's own bytes",
    *(f"truncated by {n}" for n in range(1, 5)),
    "truncated by half",
    "garbage behind it",
    "a second frame",
    "a flipped bit",
    "a flipped bit in the checksum",
    "no frame",
]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", TRAPS)
def test_traps(plan: TwinPlan, name: str, index: int) -> None:
    """No damaged frame is regrouped into something: it gives the one error, which says what is wrong."""
    stored, message = damaged(index, name)
    entry = plan.table.entries[index]
    with pytest.raises(FormatError) as caught:
        TwinDecoder().decode(plan, entry, memoryview(stored), memoryview(bytearray(len(entry.content))))
    assert message in caught.value.reason


def test_sound_frames(plan: TwinPlan) -> None:
    """What the traps are made from decodes, in one decoder, after an error too."""
    decoder = TwinDecoder()
    for entry, frame in zip(plan.table.entries, FRAMES, strict=True):
        destination = bytearray(len(entry.content))
        with pytest.raises(FormatError):
            decoder.decode(plan, entry, memoryview(frame[:-1]), memoryview(destination))
        decoder.decode(plan, entry, memoryview(frame), memoryview(destination))
        assert destination == FILE[entry.content.start : entry.content.stop]


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit(plan: TwinPlan, bit: int) -> None:
    """Whichever bit of a frame flips, either the error comes or the bytes are right all the same."""
    decoder = TwinDecoder()
    for entry, frame in zip(plan.table.entries, FRAMES, strict=True):
        for place in range(0, len(frame), 7 if entry.content.start else 1):
            stored = bytearray(frame)
            stored[place] ^= 1 << bit
            destination = bytearray(len(entry.content))
            try:
                decoder.decode(plan, entry, memoryview(stored), memoryview(destination))
            except FormatError:
                continue
            assert destination == FILE[entry.content.start : entry.content.stop]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        # As if the prefix were not there.
        ([len(CONTENTS[0]) - 20, 6000], "expected"),
        ([len(CONTENTS[0]), 5999], "expected"),
        ([28, 6000], "cannot hold a Safetensors header"),
        ([1, 6000], "cannot hold a Safetensors header"),
    ],
)
def test_tables_that_do_not_fit(contents: list[int], message: str) -> None:
    """A seek table that is not that of planes of the file is refused before anything is fetched."""
    with pytest.raises(FormatError, match=message):
        plan_of(contents)


def test_width_that_does_not_divide() -> None:
    """Frames that end within an element are refused as soon as the header is known."""
    contents = [len(CONTENTS[0]) + 1, len(CONTENTS[1]) - 1]
    with pytest.raises(FormatError, match="the Safetensors header says"):
        plan_of(contents).learn(PARSED)
