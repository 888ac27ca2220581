"""Independent readers of zstd and of Safetensors agree with ours on what ``hotstart pack`` writes."""

from __future__ import annotations

import io
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import pyzstd
import zstandard
from indexed_zstd import IndexedZstdFile
from safetensors.numpy import load, save

from hotstart.commands.pack import pack_file
from hotstart.commands.unpack import unpack_file
from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import build_header, parse_header
from hotstart.wire.seek_table import FOOTER_BYTES, SeekTable, table_length
from tests.support.models import small_tensors
from tests.support.processes import command_path

MIB = 1 << 20


def all_dtypes() -> bytes:
    """Return a file with tensors of all 22 dtypes, in zeros, which compress."""
    header = build_header([(dtype, dtype, (1000, 4)) for dtype in BITS] + [("empty", "F4", (0,))])
    return header + bytes(parse_header(header[8:], None).data_bytes)


def large_tensors() -> bytes:
    noise = numpy.random.default_rng(2)
    return bytes(
        save(
            {
                "a": noise.normal(size=(9 * MIB // 4,)).astype(numpy.float32),
                "b": numpy.array(7, dtype=numpy.int8),
                "c": noise.integers(0, 50, 5 * MIB, dtype=numpy.uint8),
            },
            {"format": "pt"},
        )
    )


FILES: dict[str, Callable[[], bytes]] = {
    "a small transformer": lambda: save(small_tensors()),
    "large tensors": large_tensors,
    "all dtypes": all_dtypes,
    "one scalar and zeros": lambda: save(
        {"a": numpy.array(1.5), "b": numpy.zeros(1000, dtype=numpy.float16)}, {"k": "é" * 100}
    ),
}


@pytest.fixture(scope="module", params=FILES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Safetensors file and what pack makes of it."""
    folder = tmp_path_factory.mktemp("pair")
    source = folder / "x.safetensors"
    source.write_bytes(FILES[request.param]())
    assert pack_file(source, folder / "x.safetensors.zst", force=False) is not None
    return source, folder / "x.safetensors.zst"


def test_unpack_gives_it_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """unpack of pack is the file, byte for byte, and the safetensors library reads it."""
    source, packed = pair
    assert unpack_file(packed, tmp_path / "x", force=False) == source.stat().st_size
    assert (tmp_path / "x").read_bytes() == source.read_bytes()


def test_zstd_command_gives_it_back(pair: tuple[Path, Path]) -> None:
    """The zstd command decodes the file as it is, and finds it whole."""
    source, packed = pair
    decoded = subprocess.run([command_path("zstd"), "-dc", packed], capture_output=True, check=True)
    assert decoded.stdout == source.read_bytes()
    tested = subprocess.run([command_path("zstd"), "-t", packed], capture_output=True, check=False)
    assert tested.returncode == 0, tested.stderr


def test_zstandard_gives_it_back(pair: tuple[Path, Path]) -> None:
    """A plain reader of zstd that knows nothing of seek tables reads the chain of frames."""
    source, packed = pair
    with packed.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        assert reader.readall() == source.read_bytes()


def places(size: int) -> list[tuple[int, int]]:
    """Return starts and lengths all over a file: its ends, and where frames meet."""
    chosen = random.Random(7)
    inside = [(chosen.randrange(size), chosen.randrange(1, 3 * MIB)) for _ in range(8)]
    return [(0, 8), (0, size), (size - 1, 1), (size // 2, 5 * MIB), *inside]


def test_pyzstd_seeks_in_it(pair: tuple[Path, Path]) -> None:
    """pyzstd takes our seek table and reads any range by it."""
    source, packed = pair
    content = source.read_bytes()
    with pyzstd.SeekableZstdFile(packed, "r") as file:
        for start, length in places(len(content)):
            file.seek(start)
            assert file.read(length) == content[start : start + length]
        assert file.seek(0, io.SEEK_END) == len(content)
    with packed.open("rb") as plain:
        assert pyzstd.SeekableZstdFile.is_seekable_format_file(plain)


def test_indexed_zstd_seeks_in_it(pair: tuple[Path, Path]) -> None:
    """indexed_zstd, which makes its own table from the frames, reads any range and agrees with ours."""
    source, packed = pair
    content = source.read_bytes()
    table = read_table(packed.read_bytes())
    with IndexedZstdFile(str(packed)) as file:
        for start, length in places(len(content)):
            file.seek(start)
            assert file.read(length) == content[start : start + length]
        offsets = dict(file.block_offsets())
    for entry in table.entries:
        assert offsets[entry.stored.start] == entry.content.start


def read_table(packed: bytes) -> SeekTable:
    return SeekTable.parse(packed[-table_length(packed[-FOOTER_BYTES:]) :])


def test_frames_are_as_format_1_says(pair: tuple[Path, Path]) -> None:
    """Frame 0 is the header; every frame stands alone, with size and checksum, at most 4 MiB."""
    source, packed = pair
    content, data = source.read_bytes(), packed.read_bytes()
    table = read_table(data)
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    assert (table.entries[0].content.start, table.entries[0].content.stop) == (0, header_bytes)
    assert json.loads(content[8:header_bytes])
    table.check_sizes(len(content), len(data) - len(table.dump()))
    for entry in table.entries:
        frame = data[entry.stored.start : entry.stored.stop]
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.has_checksum
        assert parameters.content_size == len(entry.content) <= 4 * MIB
        alone = zstandard.ZstdDecompressor().decompress(frame)
        assert alone == content[entry.content.start : entry.content.stop]


def test_foreign_packers_frames_are_read(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A file framed alike by the zstd command, at another level, is unpacked too."""
    source, packed = pair
    content = source.read_bytes()
    frames = []
    for entry in read_table(packed.read_bytes()).entries:
        part = tmp_path / "part"
        part.write_bytes(content[entry.content.start : entry.content.stop])
        command = [command_path("zstd"), "-6", "--check", "-c", str(part)]
        frames.append(subprocess.run(command, capture_output=True, check=True).stdout)
    sizes = [
        (len(entry.content), len(frame))
        for entry, frame in zip(read_table(packed.read_bytes()).entries, frames, strict=True)
    ]
    foreign = tmp_path / "foreign.zst"
    foreign.write_bytes(b"".join(frames) + SeekTable.of(sizes).dump())
    unpack_file(foreign, tmp_path / "x", force=False)
    assert (tmp_path / "x").read_bytes() == content


def test_safetensors_reads_what_comes_back(tmp_path: Path) -> None:
    """Tensors that went through pack and the zstd command are the tensors, bit for bit."""
    tensors = small_tensors(3)
    source = tmp_path / "x.safetensors"
    source.write_bytes(save(tensors))
    pack_file(source, tmp_path / "x.zst", force=False)
    decoded = subprocess.run(
        [command_path("zstd"), "-dc", tmp_path / "x.zst"], capture_output=True, check=True
    )
    found = load(decoded.stdout)
    assert set(found) == set(tensors)
    assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())
