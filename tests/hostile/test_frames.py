"""Hostile zstd frames, each with the error it must give."""

from __future__ import annotations

import pytest
import zstandard

from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FrameDecoder, check_frame
from hotstart.wire.framing import FrameEncoder
from tests.support.hostile_frames import COMPRESSED, RAW, RESERVED, RLE, block, frame, frame_header

CONTENT = b"hotstart " * 1000
PLANNED = len(CONTENT)
GOOD = FrameEncoder().encode(CONTENT)
RAW_BLOCK = block(RAW, CONTENT, last=True)


def other(*, write_checksum: bool = True, write_content_size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(
        write_checksum=write_checksum, write_content_size=write_content_size
    )
    return compressor.compress(CONTENT)


def flipped(place: int) -> bytes:
    return GOOD[:place] + bytes((GOOD[place] ^ 0x10,)) + GOOD[place + 1 :]


# Name: bytes, what the error says.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "begins nowhere: expected 28b52ffd"),
    "magic alone": (GOOD[:4], "truncated in its header"),
    "header alone": (GOOD[:6], "truncated in its header"),
    "no block": (frame_header(PLANNED), "before its last block: truncated"),
    "another magic": (b"\x28\xb5\x2f\xfc" + GOOD[4:], "begins 28b52ffc: expected 28b52ffd"),
    "a skippable frame": (b"\x50\x2a\x4d\x18\4\0\0\0abcd", "begins 502a4d18"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "begins 1f8b0800"),
    "truncated by 1": (GOOD[:-1], "its last 1 bytes are missing: truncated"),
    "truncated by 2": (GOOD[:-2], "its last 2 bytes are missing: truncated"),
    "truncated by 3": (GOOD[:-3], "its last 3 bytes are missing: truncated"),
    "truncated by 4": (GOOD[:-4], "its last 4 bytes are missing: truncated"),
    "truncated by half": (GOOD[: len(GOOD) // 2], "truncated"),
    "one byte of garbage": (GOOD + b"\0", "1 bytes follow its end"),
    "a second frame": (GOOD + GOOD, f"{len(GOOD)} bytes follow its end"),
    "no checksum": (other(write_checksum=False), "no checksum"),
    "no content size": (other(write_content_size=False), "no content size"),
    "content size of 1 TiB": (
        frame(frame_header(2**40, size_flag=3), [RAW_BLOCK]),
        f"claims {2**40} bytes of content: the plan says {PLANNED}",
    ),
    "content size one too small": (frame(frame_header(PLANNED - 1), [RAW_BLOCK]), "claims 8999 bytes"),
    "blocks that hold less than claimed": (
        frame(frame_header(PLANNED), [block(RAW, CONTENT[:100], last=True)]),
        f"claims {PLANNED} bytes of content: its blocks hold at most 100",
    ),
    "blocks that hold more than claimed": (
        frame(frame_header(PLANNED), [block(RAW, CONTENT, last=False), block(RAW, b"x", last=True)]),
        "damaged: ",
    ),
    "raw blocks with a wrong checksum": (frame(frame_header(PLANNED), [RAW_BLOCK]), "damaged: "),
    "a needed dictionary": (
        frame(frame_header(PLANNED, dictionary_flag=1), [RAW_BLOCK]),
        "needs a dictionary",
    ),
    "the reserved bit": (frame(frame_header(PLANNED, reserved=True), [RAW_BLOCK]), "reserved bit set"),
    "a window of 3.75 TiB": (
        frame(frame_header(PLANNED, single_segment=False, window=0xFF), [RAW_BLOCK]),
        "window of 4123168604160 bytes: at most 8388608",
    ),
    "a window of 9 MiB": (
        frame(frame_header(PLANNED, single_segment=False, window=13 << 3 | 1), [RAW_BLOCK]),
        "window of 9437184 bytes: at most 8388608",
    ),
    "a block of a reserved type": (
        frame(frame_header(PLANNED), [block(RESERVED, b"", last=True)]),
        "block of unknown type 3",
    ),
    "a raw block of more than 128 KiB": (
        frame(frame_header(PLANNED, single_segment=False), [block(RAW, b"", 131073, last=True)]),
        "block of 131073 bytes at byte 10: at most 131072",
    ),
    "a repeated byte beyond the content": (
        frame(frame_header(PLANNED), [block(RLE, b"x", PLANNED + 1, last=True)]),
        f"block of {PLANNED + 1} bytes at byte 9: at most {PLANNED}",
    ),
    "a repeated byte with a wrong checksum": (
        frame(frame_header(PLANNED), [block(RLE, b"x", PLANNED, last=True)]),
        "damaged: ",
    ),
    "a compressed block of garbage": (
        frame(frame_header(PLANNED), [block(COMPRESSED, b"\xff" * 50, last=True)]),
        "damaged: ",
    ),
    "a last block before the end": (
        frame(frame_header(PLANNED), [RAW_BLOCK, block(RAW, b"", last=True)]),
        "3 bytes follow its end",
    ),
    "no last block": (
        frame(frame_header(PLANNED), [block(RAW, CONTENT, last=False)]),
        "before its last block: truncated",
    ),
    "a flipped bit in the content": (flipped(len(GOOD) // 2), "damaged: "),
    "a flipped bit in the checksum": (flipped(len(GOOD) - 1), "damaged: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_error(name: str) -> None:
    """A hostile frame is never decoded into something: it gives the one error, which says what is wrong."""
    data, message = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        FrameDecoder().decode_into(memoryview(data), memoryview(bytearray(PLANNED)))
    assert caught.value.what == "zstd frame"
    assert message in caught.value.reason


@pytest.mark.parametrize("name", [name for name, (_, message) in HOSTILE.items() if message != "damaged: "])
def test_error_comes_before_decoding(name: str) -> None:
    """What decoding would not notice, or would allocate for, is found by the check alone."""
    data, message = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        check_frame(memoryview(data), PLANNED)
    assert message in caught.value.reason


def test_largest_window_is_fine() -> None:
    """A window of exactly 8 MiB, which every decoder has to support, is not refused."""
    check_frame(
        memoryview(frame(frame_header(PLANNED, single_segment=False, window=13 << 3), [RAW_BLOCK])), PLANNED
    )


@pytest.mark.parametrize("missing", range(1, len(GOOD)))
def test_every_truncation(missing: int) -> None:
    """Wherever a frame is cut, it is an error."""
    with pytest.raises(FormatError):
        FrameDecoder().decode_into(memoryview(GOOD[:-missing]), memoryview(bytearray(PLANNED)))


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit(bit: int) -> None:
    """Whichever bit of a frame flips, either the error comes or the content is right all the same."""
    decoder = FrameDecoder()
    for place in range(len(GOOD)):
        damaged = bytearray(GOOD)
        damaged[place] ^= 1 << bit
        destination = bytearray(PLANNED)
        try:
            decoder.decode_into(memoryview(damaged), memoryview(destination))
        except FormatError:
            continue
        # Bits that zstd does not use, for example the window's: 7 of them in a byte at most.
        assert destination == CONTENT
        assert place < 10


def test_zstandard_alone_would_not_notice() -> None:
    """The checks are needed: without them, three of these decode without an error."""
    for name in ("truncated by 4", "one byte of garbage", "no checksum"):
        destination = bytearray(PLANNED)
        with zstandard.ZstdDecompressor().stream_reader(HOSTILE[name][0]) as reader:
            assert reader.readinto(destination) == PLANNED
        assert destination == CONTENT
