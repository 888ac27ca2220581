"""Byte planes: golden bytes, and readers of zstd and of Safetensors that know nothing of ours."""

from __future__ import annotations

import json
import subprocess
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import pyzstd
import zstandard
from safetensors.numpy import save

from hotstart.commands.pack import pack_file
from hotstart.commands.unpack import unpack_file
from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import build_header, parse_header
from hotstart.wire.seek_table import FOOTER_BYTES, SeekTable, table_length
from hotstart.wire.twin_forms import PLANES_SUFFIX
from tests.support.models import minilm_folder, small_tensors
from tests.support.processes import command_path

MIB = 1 << 20
WIDTHS = {"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F32": 4, "I32": 4, "U32": 4, "C64": 4}
WIDTHS |= {"F64": 8, "I64": 8, "U64": 8}


def every_dtype() -> bytes:
    """Return a file with tensors of all 22 dtypes in their order, many of which end at odd places."""
    header = build_header([(dtype, dtype, (1001, 8)) for dtype in BITS] + [("odd", "U8", (3,))])
    noise = numpy.random.default_rng(5)
    size = parse_header(header[8:], None).data_bytes
    return header + noise.integers(0, 9, size, dtype=numpy.uint8).tobytes()


def large_tensors() -> bytes:
    noise = numpy.random.default_rng(2)
    return bytes(
        save(
            {
                "a": noise.normal(size=(9 * MIB // 4,)).astype(numpy.float32),
                "b": numpy.array(7, dtype=numpy.int8),
                "c": noise.normal(size=(3 * MIB,)).astype(numpy.float16),
                "d": numpy.arange(700_000),
            }
        )
    )


FILES: dict[str, Callable[[], bytes]] = {
    "a small transformer": lambda: save(small_tensors()),
    "large tensors": large_tensors,
    "every dtype": every_dtype,
    "real weights": lambda: (minilm_folder() / "model.safetensors").read_bytes(),
}


@pytest.fixture(scope="module", params=FILES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Safetensors file and its byte planes."""
    folder = tmp_path_factory.mktemp("pair")
    source, packed = folder / "x.safetensors", folder / "x.safetensors.zsp"
    source.write_bytes(FILES[request.param]())
    assert pack_file(source, packed, suffix=PLANES_SUFFIX, force=False) is not None
    return source, packed


def read_table(packed: bytes) -> SeekTable:
    return SeekTable.parse(packed[-table_length(packed[-FOOTER_BYTES:]) :])


def put_together(content: bytes, frames: list[int]) -> bytes:
    """Undo the transform as docs/format.md describes it, by numpy alone.

    Args:
        content: what a reader of zstd gets.
        frames: where its frames after the first begin, and its end.
    """
    assert content[:8] == b"HSPLANE1"
    length = int.from_bytes(content[8:16], "little")
    header = content[20 : 20 + length]
    assert int.from_bytes(content[16:20], "little") == zlib.crc32(header)
    assert frames[0] == 20 + length
    widths = numpy.zeros(len(content) - 20 - length, dtype=numpy.uint8)
    for name, info in json.loads(header[8:]).items():
        if name != "__metadata__":
            start, stop = info["data_offsets"]
            widths[start:stop] = WIDTHS.get(info["dtype"], 1)
    parts = [header]
    for start, stop in pairwise(frames):
        width = int(widths[start - frames[0]])
        assert (widths[start - frames[0] : stop - frames[0]] == width).all()
        planes = numpy.frombuffer(content[start:stop], dtype=numpy.uint8)
        parts.append(planes.reshape(width, -1).T.tobytes())
    return b"".join(parts)


def test_unpack_gives_it_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """unpack of pack --planes is the file, byte for byte."""
    source, packed = pair
    assert unpack_file(packed, tmp_path / "x", force=False) == source.stat().st_size
    assert (tmp_path / "x").read_bytes() == source.read_bytes()


def test_other_readers_get_the_planes(pair: tuple[Path, Path]) -> None:
    """The zstd command finds the file whole, and what it decodes is the file regrouped as documented."""
    source, packed = pair
    decoded = subprocess.run([command_path("zstd"), "-dc", packed], capture_output=True, check=True).stdout
    entries = read_table(packed.read_bytes()).entries
    frames = [entry.content.start for entry in entries[1:]] + [entries[-1].content.stop]
    assert put_together(decoded, frames) == source.read_bytes()


def test_pyzstd_seeks_in_it(pair: tuple[Path, Path]) -> None:
    """pyzstd takes the seek table, in bytes of what frames decode to, and reads any range by it."""
    _, packed = pair
    whole = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes(), read_across_frames=True).readall()
    with pyzstd.SeekableZstdFile(packed, "r") as file:
        for start in (0, 20, len(whole) // 3, len(whole) - 1):
            file.seek(start)
            assert file.read(2 * MIB) == whole[start : start + 2 * MIB]


def test_frames_are_as_format_1_says(pair: tuple[Path, Path]) -> None:
    """Every frame stands alone, with size and checksum, at most 4 MiB; frame 0 is prefix and header."""
    source, packed = pair
    data = packed.read_bytes()
    table = read_table(data)
    header_bytes = 8 + int.from_bytes(source.read_bytes()[:8], "little")
    assert len(table.entries[0].content) == 20 + header_bytes
    assert table.content_bytes == 20 + source.stat().st_size
    for entry in table.entries:
        parameters = zstandard.get_frame_parameters(data[entry.stored.start : entry.stored.stop])
        assert parameters.has_checksum
        assert parameters.content_size == len(entry.content) <= 4 * MIB


def test_a_reader_of_safetensors_fails(pair: tuple[Path, Path]) -> None:
    """Whoever takes the decoded bytes for the file itself sees a header of an absurd length."""
    _, packed = pair
    whole = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes(), read_across_frames=True)
    assert int.from_bytes(whole.read(8), "little") > 2**60


def test_golden_bytes(tmp_path: Path) -> None:
    """The bytes of a small file, spelled out: format 1 does not change."""
    data = bytes.fromhex("1122 3344 5566  01020304 05060708  aabb")
    source, packed = tmp_path / "x.safetensors", tmp_path / "x.zsp"
    # 100 more elements of one value: something must save 3%.
    header = build_header([("f", "F16", (3,)), ("i", "I32", (2,)), ("b", "U8", (2,)), ("z", "F64", (100,))])
    source.write_bytes(header + data + bytes.fromhex("000000000000f03f") * 100)
    assert pack_file(source, packed, suffix=PLANES_SUFFIX, force=False) is not None
    found = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes(), read_across_frames=True).readall()
    assert found == (
        b"HSPLANE1"
        + len(header).to_bytes(8, "little")
        + zlib.crc32(header).to_bytes(4, "little")
        + header
        + bytes.fromhex("113355 224466")
        + bytes.fromhex("0105 0206 0307 0408")
        + bytes.fromhex("aabb")
        + bytes(600)
        + b"\xf0" * 100
        + b"\x3f" * 100
    )
    sizes = [len(entry.content) for entry in read_table(packed.read_bytes()).entries]
    assert sizes == [20 + len(header), 6, 8, 2, 800]
