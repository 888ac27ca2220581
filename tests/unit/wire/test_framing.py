"""How a file is cut into frames, and which frames are worth it."""

from __future__ import annotations

import numpy
import pytest
import zstandard

from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES, check_frame
from hotstart.wire.framing import FrameEncoder, plan_frames, saves
from hotstart.wire.safetensors import LENGTH_BYTES, Header, build_header, parse_header

MIB = 1 << 20


def header_of(*sizes: int) -> Header:
    """Return the header of a file of U8 tensors of these sizes."""
    built = build_header((f"t{number}", "U8", (size,)) for number, size in enumerate(sizes))
    return parse_header(built[LENGTH_BYTES:], None)


def plan(*sizes: int) -> list[tuple[int, int]]:
    """Return the frames after the first, as start and stop in the data section."""
    header = header_of(*sizes)
    frames = plan_frames(header, header.file_bytes)
    assert (frames[0].start, frames[0].stop) == (0, header.data_start)
    return [(frame.start - header.data_start, frame.stop - header.data_start) for frame in frames[1:]]


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([], []),
        ([0, 0], []),
        ([1], [(0, 1)]),
        ([4 * MIB], [(0, 4 * MIB)]),
        ([4 * MIB + 1], [(0, 4 * MIB), (4 * MIB, 4 * MIB + 1)]),
        # Small neighbours share a frame, up to 4 MiB.
        ([MIB, MIB, 2 * MIB], [(0, 4 * MIB)]),
        ([MIB, MIB, 2 * MIB, 1], [(0, 4 * MIB), (4 * MIB, 4 * MIB + 1)]),
        # A small tensor that does not fit begins the next one, and is not cut.
        ([3 * MIB, 2 * MIB], [(0, 3 * MIB), (3 * MIB, 5 * MIB)]),
        # A tensor larger than a frame begins one.
        ([5, 9 * MIB], [(0, 5), (5, 5 + 4 * MIB), (5 + 4 * MIB, 5 + 8 * MIB), (5 + 8 * MIB, 5 + 9 * MIB)]),
        # Its rest shares with the small ones after it, and not with a large one.
        ([5 * MIB, 1, 2 * MIB], [(0, 4 * MIB), (4 * MIB, 7 * MIB + 1)]),
        ([5 * MIB, 8 * MIB], [(0, 4 * MIB), (4 * MIB, 5 * MIB), (5 * MIB, 9 * MIB), (9 * MIB, 13 * MIB)]),
        # Empty tensors lie anywhere.
        ([0, 4 * MIB, 0, 0, 1], [(0, 4 * MIB), (4 * MIB, 4 * MIB + 1)]),
    ],
)
def test_plan(sizes: list[int], frames: list[tuple[int, int]]) -> None:
    """The frames of a file are those that format 1 lays down."""
    assert plan(*sizes) == frames


@pytest.mark.parametrize("seed", range(20))
def test_plan_keeps_the_rules(seed: int) -> None:
    """Frames cover the file without holes, none too large; large tensors begin one, small ones lie in one."""
    noise = numpy.random.default_rng(seed)
    sizes = [
        int(size) for size in noise.choice([0, 1, 999, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 13 * MIB], 30)
    ]
    frames = plan(*sizes)
    starts = {start for start, _ in frames}
    assert [start for start, _ in frames] == [0, *(stop for _, stop in frames[:-1])][: len(frames)]
    assert all(0 < stop - start <= FRAME_BYTES for start, stop in frames)
    position = 0
    for size in sizes:
        if size > FRAME_BYTES:
            assert position in starts
        elif size:
            assert any(start <= position and position + size <= stop for start, stop in frames)
        position += size
    assert position == sum(stop - start for start, stop in frames)


def test_plan_of_another_file() -> None:
    """A header that describes a file of another size is refused."""
    header = header_of(10)
    with pytest.raises(FormatError, match="but its header describes"):
        plan_frames(header, header.file_bytes + 1)


@pytest.mark.parametrize(
    ("content", "stored", "saved"), [(100, 97, True), (100, 98, False), (1000, 970, True)]
)
def test_three_percent(content: int, stored: int, saved: bool) -> None:
    """A frame is worth decoding from 3% saved."""
    assert saves(content, stored) is saved


NOISE = numpy.random.default_rng(5).integers(0, 256, MIB, dtype=numpy.uint8).tobytes()


def block_types(frame: bytes) -> set[int]:
    """Return the types of all blocks of a frame of the encoder: 0 is raw, 1 one repeated byte."""
    position, types, last = zstandard.frame_header_size(frame), set(), 0
    while not last:
        word = int.from_bytes(frame[position : position + 3], "little")
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        types.add(kind)
        position += 3 + (1 if kind == 1 else size)
    return types


def test_frame_that_saves_little_is_raw() -> None:
    """Noise is written in raw blocks alone, which decode at the speed of memcpy; text is compressed."""
    encoder = FrameEncoder()
    header = encoder.encode(b'{"a":1}' * 100)
    noise = encoder.encode(NOISE)
    assert block_types(header) != {0}
    assert block_types(noise) == {0}
    assert not encoder.pays
    for frame, content_bytes in ((header, 700), (noise, MIB)):
        parameters = zstandard.get_frame_parameters(frame)
        assert (parameters.has_checksum, parameters.content_size) == (True, content_bytes)
        check_frame(memoryview(frame), content_bytes)


def test_levels() -> None:
    """From 3% saved a frame is that of level 1; below, what level 1 would still compress is raw."""
    half_bytes = numpy.random.default_rng(6).integers(0, 16, 96 * 1024, dtype=numpy.uint8).tobytes()
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
    content = half_bytes + NOISE[len(half_bytes) :]
    assert 0.96 * MIB < len(compressor.compress(content)) < 0.97 * MIB
    assert FrameEncoder().encode(content) == compressor.compress(content)
    content = half_bytes[: 32 * 1024] + NOISE[32 * 1024 :]
    assert 0.97 * MIB < len(compressor.compress(content)) < 0.995 * MIB
    assert block_types(compressor.compress(content)) == {0, 2}
    assert block_types(FrameEncoder().encode(content)) == {0}


def test_a_header_alone_does_not_pay() -> None:
    """The header always shrinks; only a frame of tensors makes a twin worth its second copy."""
    encoder = FrameEncoder()
    encoder.encode(b" " * 10_000)
    assert not encoder.pays
    encoder.encode(NOISE)
    assert not encoder.pays
    encoder.encode(bytes(10_000))
    assert encoder.pays
    encoder.encode(NOISE)
    assert encoder.pays


def test_encoding_is_deterministic() -> None:
    """Two encoders give the same bytes, so that an interrupted publish can resume."""
    content = NOISE[:5000] + bytes(5000)
    assert FrameEncoder().encode(content) == FrameEncoder().encode(memoryview(bytearray(content)))
