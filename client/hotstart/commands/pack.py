"""``hotstart pack``: write the zstd-framed twin of a local Safetensors file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotstart.commands.local_files import naming, new_file, open_file, read_exactly
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES
from hotstart.wire.framing import FrameEncoder, plan_frames
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from hotstart.wire.seek_table import SeekTable

SUMMARY = "Compress a .safetensors file into zstd frames, so that any tensor can be read by itself."
SUFFIX = ".zst"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help=f"default: FILE{SUFFIX}")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(arguments: argparse.Namespace) -> int:
    """Pack one file; a file in which no frame saves anything gets no twin, and that is no error."""
    source: Path = arguments.file
    output: Path = arguments.output or source.with_name(source.name + SUFFIX)
    packed = pack_file(source, output, force=arguments.force)
    if packed is None:
        print(f"{source}: no frame of its tensors gets 3% smaller, so no {output} was written")
        return 0
    table = packed.table
    print(
        f"{output}: {packed.size:,} bytes in {len(table.entries)} frames, "
        f"{packed.size / table.content_bytes:.1%} of {table.content_bytes:,}"
    )
    return 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed file: its seek table, and its size in bytes."""

    table: SeekTable
    size: int


def pack_file(source: Path, output: Path, *, force: bool) -> Packed | None:
    """Write the zstd-framed form of source to output, frame by frame, whole or not at all.

    Returns:
        What was written, or None if nothing was because it would save nothing.

    Raises:
        FormatError: source is not a Safetensors file.
        FileFailure: source cannot be read, output cannot be written or is there already (without force).
    """
    with open_file(source) as (file, size):
        header, frame_0 = read_header(file, size, source)
        with new_file(output, source=source, force=force) as new:
            packed = _write_frames(file, header, frame_0, source, new.file)
            new.keep = packed is not None
    return packed


def read_header(file: BinaryIO, size: int, path: Path) -> tuple[Header, bytearray]:
    """Read the header of an open Safetensors file.

    Returns:
        The header, and the bytes of the file that hold it: the content of frame 0.

    Raises:
        FormatError: it is not a Safetensors file.
        FileFailure: it cannot be read.
    """
    if size < LENGTH_BYTES:
        raise FormatError(f"Safetensors file {path}", f"{size} bytes: expected at least {LENGTH_BYTES}")
    first8 = bytearray(LENGTH_BYTES)
    read_exactly(file, memoryview(first8), path)
    with naming(str(path)):
        length = parse_header_length(first8)
        if LENGTH_BYTES + length > size:
            raise FormatError("Safetensors header", f"claims {length} bytes, but the file has {size}")
        frame_0 = first8 + bytearray(length)
        read_exactly(file, memoryview(frame_0)[LENGTH_BYTES:], path)
        return parse_header(memoryview(frame_0)[LENGTH_BYTES:], size), frame_0


def _write_frames(
    file: BinaryIO, header: Header, frame_0: bytearray, path: Path, out: BinaryIO
) -> Packed | None:
    encoder = FrameEncoder()
    buffer = memoryview(bytearray(min(FRAME_BYTES, header.data_bytes)))
    sizes: list[tuple[int, int]] = []
    for index, content in enumerate(plan_frames(header, header.file_bytes)):
        if index == 0:
            view = memoryview(frame_0)
        else:
            view = buffer[: len(content)]
            read_exactly(file, view, path)
        frame = encoder.encode(view)
        out.write(frame)
        sizes.append((len(content), len(frame)))
    if not encoder.pays:
        return None
    table = SeekTable.of(sizes)
    dumped = table.dump()
    out.write(dumped)
    return Packed(table, table.stored_bytes + len(dumped))
