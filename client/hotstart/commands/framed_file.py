"""A local twin of a Safetensors file: its seek table, its header, and its frames one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotstart.commands.local_files import naming, read_exactly
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES, FRAME_MAGIC, FrameDecoder
from hotstart.wire.planes import PLANES_MAGIC, check_prefix, frame_widths, identity_table, merge
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from hotstart.wire.seek_table import FOOTER_BYTES, FrameEntry, SeekTable, table_length

__all__ = ["FramedFile"]

_WHAT = "zstd-framed Safetensors file"


@dataclass(slots=True)
class FramedFile:
    """An open file whose seek table and header have been read and agree with its size.

    Attributes:
        table: where the frames are, with contents in bytes of the Safetensors file.
        header: decoded from frame 0.
        frame_0: the bytes of the Safetensors file that frame 0 holds.
        widths: bytes of an element in each frame, for byte planes; empty otherwise.
    """

    table: SeekTable
    header: Header
    frame_0: memoryview
    widths: tuple[int, ...]
    _file: BinaryIO
    _path: Path
    _decoder: FrameDecoder
    _planes: memoryview

    @classmethod
    def read(cls, file: BinaryIO, size: int, path: Path) -> FramedFile:
        """Read table and header; file stays the caller's, and its position changes.

        Args:
            file: open for reading.
            size: its bytes.
            path: for errors.

        Raises:
            FormatError: it is neither zstd-framed Safetensors nor byte planes, format 1.
            FileFailure: it cannot be read.
        """
        table = _read_table(file, size, path)
        decoder = FrameDecoder()
        view = memoryview(bytearray(len(table.entries[0].content)))
        _decode(file, path, decoder, 0, table.entries[0], view)
        # No Safetensors header begins so: it would claim more bytes than any has.
        is_planes = view[: len(PLANES_MAGIC)] == PLANES_MAGIC
        with naming(str(path)):
            if is_planes:
                view = check_prefix(view)
                table = identity_table(table)
            length = parse_header_length(view[:LENGTH_BYTES])
            if LENGTH_BYTES + length != len(view):
                raise FormatError(
                    "Safetensors header", f"{length} bytes in a frame 0 of {len(view)}: expected it alone"
                )
            header = parse_header(view[LENGTH_BYTES:], table.content_bytes)
            widths = frame_widths(header, table) if is_planes else ()
        planes = memoryview(bytearray(FRAME_BYTES if is_planes else 0))
        return cls(table, header, view, widths, file, path, decoder, planes)

    def decode(self, index: int, destination: memoryview) -> None:
        """Read, check and decode one frame, not the first, into destination, of exactly its size in the file.

        Raises:
            FormatError: the frame is malformed or damaged; it is named.
            FileFailure: the file cannot be read.
        """
        entry = self.table.entries[index]
        width = self.widths[index] if self.widths else 1
        content = destination if width == 1 else self._planes[: len(destination)]
        _decode(self._file, self._path, self._decoder, index, entry, content)
        if width > 1:
            merge(content, width, destination)


def _read_table(file: BinaryIO, size: int, path: Path) -> SeekTable:
    if size < len(FRAME_MAGIC) + FOOTER_BYTES:
        raise FormatError(f"{_WHAT} {path}", f"{size} bytes: too few for a frame and a seek table")
    footer = memoryview(bytearray(FOOTER_BYTES))
    file.seek(size - FOOTER_BYTES)
    read_exactly(file, footer, path)
    with naming(str(path)):
        length = table_length(footer)
        if length > size:
            raise FormatError("seek table", f"claims {length} bytes, but the file has {size}")
        data = memoryview(bytearray(length))
        file.seek(size - length)
        read_exactly(file, data, path)
        table = SeekTable.parse(data)
        if table.stored_bytes != size - length:
            raise FormatError(
                "seek table", f"its frames fill {table.stored_bytes} bytes: expected {size - length}"
            )
    return table


def _decode(
    file: BinaryIO,
    path: Path,
    decoder: FrameDecoder,
    index: int,
    entry: FrameEntry,
    destination: memoryview,
) -> None:
    stored = memoryview(bytearray(len(entry.stored)))
    file.seek(entry.stored.start)
    read_exactly(file, stored, path)
    with naming(f"frame {index} of {path}"):
        decoder.decode_into(stored, destination)
