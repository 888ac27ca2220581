"""One zstd frame: decoded into place, and what is checked around that."""

from __future__ import annotations

import numpy
import pytest
import zstandard

from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES, FrameDecoder, check_frame, content_limit, stored_limit
from hotstart.wire.framing import FrameEncoder

NOISE = numpy.random.default_rng(3).integers(0, 256, FRAME_BYTES, dtype=numpy.uint8).tobytes()


def contents() -> dict[str, bytes]:
    return {
        "one byte": b"x",
        "255 bytes": NOISE[:255],
        "256 bytes, whose size is written in two": NOISE[:256],
        "65791 bytes, the last size in two": NOISE[:65791],
        "65792 bytes, the first size in four": NOISE[:65792],
        "one block": NOISE[: 128 * 1024],
        "one block and a byte": NOISE[: 128 * 1024 + 1],
        "zeros": bytes(FRAME_BYTES),
        "text": b"hotstart " * 10_000,
        "noise": NOISE,
        "half and half": NOISE[: FRAME_BYTES // 2] + bytes(FRAME_BYTES // 2),
    }


@pytest.mark.parametrize("name", contents())
def test_round_trip(name: str) -> None:
    """What the encoder makes of any content is accepted and decoded bit for bit into the caller's buffer."""
    content = contents()[name]
    frame = memoryview(FrameEncoder().encode(content))
    destination = bytearray(b"\xaa" * (len(content) + 2))
    check_frame(frame, len(content))
    FrameDecoder().decode_into(frame, memoryview(destination)[1:-1])
    assert destination[1:-1] == content
    assert destination[:1] == destination[-1:] == b"\xaa"
    assert len(frame) <= stored_limit(len(content))
    assert content_limit(len(frame)) >= len(content)


@pytest.mark.parametrize("level", [-5, 1, 3, 9, 19])
@pytest.mark.parametrize("name", contents())
def test_other_levels_are_read(name: str, level: int) -> None:
    """Whoever packs with other settings of zstd, but size and checksum, is understood."""
    content = contents()[name][:200_000]
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    destination = bytearray(len(content))
    FrameDecoder().decode_into(memoryview(compressor.compress(content)), memoryview(destination))
    assert destination == content


def test_decoder_goes_on_after_an_error() -> None:
    """A damaged frame does not spoil the decoder for the next one."""
    decoder = FrameDecoder()
    frame = bytearray(FrameEncoder().encode(b"hotstart " * 1000))
    destination = memoryview(bytearray(9000))
    frame[20] ^= 0xFF
    with pytest.raises(FormatError):
        decoder.decode_into(memoryview(frame), destination)
    frame[20] ^= 0xFF
    decoder.decode_into(memoryview(frame), destination)
    assert bytes(destination) == b"hotstart " * 1000


def test_destination_may_be_any_writable_memory() -> None:
    """A slice of a numpy array is decoded into as well as a bytearray."""
    array = numpy.zeros(1000, numpy.uint8)
    FrameDecoder().decode_into(memoryview(FrameEncoder().encode(b"\x07" * 500)), array.data[200:700])
    assert array.sum() == 3500


@pytest.mark.parametrize("planned", [0, 1, 8999, 9001, 2**40])
def test_other_size_than_planned(planned: int) -> None:
    """A frame that holds other than the plan says is refused before anything is decoded."""
    frame = memoryview(FrameEncoder().encode(b"hotstart " * 1000))
    with pytest.raises(FormatError, match=f"claims 9000 bytes of content: the plan says {planned}"):
        check_frame(frame, planned)
