"""Nothing allocates more than its input warrants, whatever the input claims."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.wire.errors import FormatError
from hotstart.wire.frames import check_frame
from hotstart.wire.index import Index
from hotstart.wire.manifest import Manifest
from hotstart.wire.safetensors import parse_header, parse_header_length
from hotstart.wire.seek_table import SeekTable, table_length
from tests.support.hostile_frames import RAW, block, frame, frame_header

# Python's objects for the densest input: {"":{ and the like, a dictionary for a few bytes.
FACTOR = 150
SLACK_BYTES = 256 * 1024


def peak_bytes(parse: Callable[[], object]) -> int:
    """Run parse, whose one error may come, and return the most memory that Python held for it at once."""
    tracemalloc.start()
    try:
        parse()
    except FormatError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def table_claiming(frames: int) -> bytes:
    return bytes.fromhex("5e2a4d18ffffffff") + frames.to_bytes(4, "little") + bytes.fromhex("00b1ea928f")


TENSOR = b'{"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}'
CLAIMS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "a header of 2^60 bytes": (parse_header_length, (2**60).to_bytes(8, "little")),
    "a tensor of 2^60 bytes": (lambda data: parse_header(data, None), TENSOR),
    "a frame of 1 TiB": (
        lambda data: check_frame(memoryview(data), 2**40),
        frame(frame_header(2**40, size_flag=3), [block(RAW, b"x", last=True)]),
    ),
    "a seek table of 2^32-1 frames": (SeekTable.parse, table_claiming(2**32 - 1)),
    "a seek table of 2^27 frames": (SeekTable.parse, table_claiming(2**27)),
    "a footer of 2^27 frames": (table_length, table_claiming(2**27)[-9:]),
    "a manifest of 2^62 bytes": (
        Manifest.parse,
        b'{"format":1,"files":[{"size":4611686018427387904,"pieces":{"size":4194304,"crc32":""}}]}',
    ),
    "an integer of 4,000 digits": (Index.parse, b'{"format":' + b"9" * 4000 + b"}"),
    "an integer of 1,000,000 digits": (Index.parse, b'{"format":' + b"9" * 1_000_000 + b"}"),
    "lists in lists": (Index.parse, b'{"format":' + b"[" * 1_000_000),
    "objects in objects": (Index.parse, b'{"format":' + b'{"":' * 250_000),
    "many empty objects": (Index.parse, b'{"versions":[' + b"{}," * 100_000 + b"{}]}"),
    "many small tensors": (
        lambda data: parse_header(data, None),
        b"{"
        + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(20_000))
        + b"}",
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims(name: str) -> None:
    """What is claimed costs nothing: memory follows the bytes that are there."""
    parse, data = CLAIMS[name]
    assert peak_bytes(lambda: parse(data)) <= FACTOR * len(data) + SLACK_BYTES


@settings(max_examples=200, deadline=None)
@given(claimed=st.integers(0, 2**64 - 1), body=st.binary(max_size=300), flag=st.integers(0, 3))
def test_frames_claim_anything(claimed: int, body: bytes, flag: int) -> None:
    """Whatever content a frame claims, checking it costs next to nothing."""
    written = claimed % (1 << (8 << flag)) + (256 if flag == 1 else 0)
    data = frame_header(written, size_flag=flag) + body
    assert peak_bytes(lambda: check_frame(memoryview(data), written)) <= SLACK_BYTES


LIMITED = """
import resource, sys
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FrameDecoder
decoder = FrameDecoder()
frame, destination = bytes.fromhex(sys.argv[1]), bytearray(int(sys.argv[2]))
# All that is mapped now, and 16 MiB.
with open("/proc/self/statm") as statm:
    mapped = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (16 << 20),) * 2)
try:
    decoder.decode_into(memoryview(frame), memoryview(destination))
except FormatError as error:
    print(error)
"""
PLANNED = 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame(frame_header(2**40, size_flag=3), [block(RAW, b"x", last=True)]), "the plan says 1000"),
        (
            frame(frame_header(PLANNED, single_segment=False, window=0xFF), [block(RAW, b"x", last=True)]),
            "window of 4123168604160 bytes",
        ),
        (
            # 64 MiB: within what zstd itself would take.
            frame(frame_header(PLANNED, single_segment=False, window=16 << 3), [block(RAW, b"x", last=True)]),
            "window of 67108864 bytes",
        ),
        (frame(frame_header(PLANNED), [block(RAW, bytes(PLANNED), last=True)]), "damaged"),
    ],
)
def test_decoder_within_a_limit(data: bytes, message: str) -> None:
    """A decoder that may map only 16 MiB more refuses frames for what they are, not for want of it."""
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, data.hex(), str(PLANNED)], capture_output=True, text=True, check=True
    )
    assert message in finished.stdout
