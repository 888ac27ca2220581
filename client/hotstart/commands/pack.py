"""``hotstart pack``: write a twin of a local Safetensors file, zstd-framed or as byte planes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotstart.commands.local_files import naming, new_file, open_file, read_exactly
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES
from hotstart.wire.framing import FrameEncoder
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX, ZSTD_SUFFIX, TwinForm, plan_twin

SUMMARY = "Compress a .safetensors file into zstd frames, so that any tensor can be read by itself."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        help=f"default: FILE{ZSTD_SUFFIX}, or FILE{PLANES_SUFFIX} with --planes",
    )
    parser.add_argument(
        "--planes",
        action="store_true",
        help="regroup the bytes of elements first: smaller, for hotstart alone",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(arguments: argparse.Namespace) -> int:
    """Pack one file; a file in which no frame saves anything gets no twin, and that is no error."""
    source: Path = arguments.file
    suffix = PLANES_SUFFIX if arguments.planes else ZSTD_SUFFIX
    output: Path = arguments.output or source.with_name(source.name + suffix)
    packed = pack_file(source, output, suffix=suffix, force=arguments.force)
    if packed is None:
        print(f"{source}: no frame of its tensors gets 3% smaller, so no {output} was written")
        return 0
    table = packed.table
    print(
        f"{output}: {packed.size:,} bytes in {len(table.entries)} frames, "
        f"{packed.size / packed.file_size:.1%} of {packed.file_size:,}"
    )
    return 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed file: its seek table, its size and that of the file in it, in bytes."""

    table: SeekTable
    size: int
    file_size: int


def pack_file(source: Path, output: Path, *, suffix: str = ZSTD_SUFFIX, force: bool) -> Packed | None:
    """Write a twin of source to output, frame by frame, whole or not at all.

    Args:
        source: a Safetensors file.
        output: of any name.
        suffix: of the form that is written.
        force: replace output if it is there.

    Returns:
        What was written, or None if nothing was because it would save nothing.

    Raises:
        FormatError: source is not a Safetensors file.
        FileFailure: source cannot be read, output cannot be written or is there already (without force).
    """
    with open_file(source) as (file, size):
        header, frame_0 = read_header(file, size, source)
        # Before there is anything that an interruption would have to remove.
        encoder = FrameEncoder()
        with new_file(output, source=source, force=force) as new:
            form = plan_twin(suffix, header, size)
            packed = _write_frames(file, form, frame_0, source, encoder, new.file)
            new.keep = packed is not None
    return packed


def read_header(file: BinaryIO, size: int, path: Path) -> tuple[Header, bytearray]:
    """Read the header of an open Safetensors file.

    Returns:
        The header, and the bytes of the file that hold it.

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
    file: BinaryIO, form: TwinForm, frame_0: bytearray, path: Path, encoder: FrameEncoder, out: BinaryIO
) -> Packed | None:
    file_size = form.frames[-1].stop
    buffer = memoryview(bytearray(min(FRAME_BYTES, file_size - len(frame_0))))
    sizes: list[tuple[int, int]] = []
    for index, place in enumerate(form.frames):
        if index == 0:
            view = memoryview(frame_0)
        else:
            view = buffer[: len(place)]
            read_exactly(file, view, path)
        content = form.content(index, view)
        frame = encoder.encode(content)
        out.write(frame)
        sizes.append((len(content), len(frame)))
    if not encoder.pays:
        return None
    table = SeekTable.of(sizes)
    dumped = table.dump()
    out.write(dumped)
    return Packed(table, table.stored_bytes + len(dumped), file_size)
