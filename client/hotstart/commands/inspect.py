"""``hotstart inspect``: what is in a local Safetensors file, plain, zstd-framed or as byte planes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.commands.framed_file import FramedFile
from hotstart.commands.local_files import open_file, read_exactly
from hotstart.commands.pack import read_header
from hotstart.commands.terminal import printable
from hotstart.wire.frames import FRAME_MAGIC
from hotstart.wire.ranges import ByteRange
from hotstart.wire.safetensors import Header, TensorInfo
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX, ZSTD_SUFFIX

SUMMARY = "Show the header, tensors, frames and ratios of a .safetensors file or a twin of one."
# Columns that stand to the right.
_NUMBERS = frozenset({"bytes", "frame", "identity", "offset", "ratio", "tensors", "width"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="a .safetensors, .safetensors.zst or .safetensors.zsp file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Inspect one file; only its header and seek table are read."""
    inspection = inspect_file(arguments.file)
    if arguments.json:
        print(json.dumps(_as_json(inspection), indent=2))
    else:
        print("\n".join(_as_text(inspection)))
    return 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file is made of.

    Attributes:
        path: of the file.
        size: bytes of the file.
        header: of the Safetensors file that it is or holds.
        table: its frames; None for a plain file.
        widths: bytes of an element in each frame, for byte planes; empty otherwise.
    """

    path: Path
    size: int
    header: Header
    table: SeekTable | None
    widths: tuple[int, ...] = ()

    @property
    def form(self) -> str:
        """What kind of file it is, by the end of its usual name."""
        if self.table is None:
            return "safetensors"
        return f"safetensors{PLANES_SUFFIX if self.widths else ZSTD_SUFFIX}"


def inspect_file(path: Path) -> Inspection:
    """Read the header, and the seek table if there is one.

    Raises:
        FormatError: neither Safetensors nor a twin.
        FileFailure: the file cannot be read.
    """
    with open_file(path) as (file, size):
        start = bytearray(min(size, len(FRAME_MAGIC)))
        read_exactly(file, memoryview(start), path)
        file.seek(0)
        # No Safetensors file begins so: its header would have 4 GB.
        if start == FRAME_MAGIC:
            framed = FramedFile.read(file, size, path)
            return Inspection(path, size, framed.header, framed.table, framed.widths)
        header, _ = read_header(file, size, path)
        return Inspection(path, size, header, None)


def _dtypes(header: Header) -> dict[str, tuple[int, int]]:
    """Return the number of tensors and their bytes by dtype, the most bytes first."""
    totals: dict[str, tuple[int, int]] = {}
    for info in header.tensors.values():
        count, size = totals.get(info.dtype, (0, 0))
        totals[info.dtype] = (count + 1, size + info.stop - info.start)
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def _frames_of(inspection: Inspection, info: TensorInfo) -> tuple[int, int, float] | None:
    """Return the first and last frame that hold the tensor, and their common ratio; None without frames."""
    if inspection.table is None or info.start == info.stop:
        return None
    base = inspection.header.data_start
    indices = inspection.table.indices_for(ByteRange(base + info.start, base + info.stop))
    entries = inspection.table.entries[indices.start : indices.stop]
    stored = sum(len(entry.stored) for entry in entries)
    content = sum(len(entry.content) for entry in entries)
    return indices[0], indices[-1], stored / content


def _as_json(inspection: Inspection) -> dict[str, object]:
    header, table = inspection.header, inspection.table
    tensors = []
    for info in header.tensors.values():
        frames = _frames_of(inspection, info)
        tensors.append(
            {
                "name": info.name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "bytes": info.stop - info.start,
                "offset": header.data_start + info.start,
                "frames": None if frames is None else [frames[0], frames[1]],
                "ratio": None if frames is None else round(frames[2], 4),
            }
        )
    return {
        "file": str(inspection.path),
        "form": inspection.form,
        "bytes": inspection.size,
        "identity_bytes": header.file_bytes,
        "ratio": round(inspection.size / header.file_bytes, 4),
        "header_length": header.length,
        "metadata": dict(header.metadata),
        "dtypes": {
            dtype: {"tensors": count, "bytes": size} for dtype, (count, size) in _dtypes(header).items()
        },
        "tensors": tensors,
        "frames": None
        if table is None
        else [
            {
                "offset": entry.stored.start,
                "bytes": len(entry.stored),
                "identity_offset": entry.content.start,
                "identity_bytes": len(entry.content),
                "width": inspection.widths[index] if inspection.widths else None,
                "ratio": round(len(entry.stored) / len(entry.content), 4),
            }
            for index, entry in enumerate(table.entries)
        ],
    }


def _as_text(inspection: Inspection) -> Iterable[str]:
    header, table = inspection.header, inspection.table
    yield f"file      {printable(str(inspection.path))}"
    if table is None:
        yield f"form      safetensors, {inspection.size:,} bytes"
    else:
        kind = "byte planes of" if inspection.widths else "zstd-framed"
        yield f"form      {kind} safetensors, {len(table.entries)} frames, {inspection.size:,} bytes"
        yield f"identity  {header.file_bytes:,} bytes, ratio {inspection.size / header.file_bytes:.1%}"
    yield f"header    {header.length:,} bytes, {len(header.tensors)} tensors"
    for key, value in header.metadata.items():
        yield f"metadata  {printable(key)} = {printable(value)}"
    yield ""
    rows = [(dtype, str(count), f"{size:,}") for dtype, (count, size) in _dtypes(header).items()]
    yield from _table(("dtype", "tensors", "bytes"), rows)
    yield ""
    yield from _table(
        ("tensor", "dtype", "shape", "bytes", "frames", "ratio"),
        [
            (printable(info.name), info.dtype, str(list(info.shape)), f"{info.stop - info.start:,}", *cells)
            for info in header.tensors.values()
            for cells in [_frame_cells(_frames_of(inspection, info))]
        ],
    )
    if table is not None:
        yield ""
        yield from _table(
            ("frame", "offset", "bytes", "identity", *(("width",) if inspection.widths else ()), "ratio"),
            [
                (
                    str(index),
                    f"{entry.stored.start:,}",
                    f"{len(entry.stored):,}",
                    f"{len(entry.content):,}",
                    *(str(width) for width in inspection.widths[index : index + 1]),
                    f"{len(entry.stored) / len(entry.content):.1%}",
                )
                for index, entry in enumerate(table.entries)
            ],
        )


def _frame_cells(frames: tuple[int, int, float] | None) -> tuple[str, str]:
    if frames is None:
        return "", ""
    first, last, ratio = frames
    return str(first) if first == last else f"{first}-{last}", f"{ratio:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield lines of aligned columns."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
