"""A local file of zstd-framed Safetensors: its seek table, its header, and its frames one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotstart.commands.local_files import naming, read_exactly
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_MAGIC, FrameDecoder
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from hotstart.wire.seek_table import FOOTER_BYTES, FrameEntry, SeekTable, table_length

__all__ = ["FramedFile"]

_WHAT = "zstd-framed Safetensors file"


@dataclass(slots=True)
class FramedFile:
    """An open file whose seek table and header have been read and agree with its size.

    Attributes:
        table: where the frames are.
        header: decoded from frame 0.
        frame_0: the content of frame 0.
    """

    table: SeekTable
    header: Header
    frame_0: bytearray
    _file: BinaryIO
    _path: Path
    _decoder: FrameDecoder

    @classmethod
    def read(cls, file: BinaryIO, size: int, path: Path) -> FramedFile:
        """Read table and header; file stays the caller's, and its position changes.

        Args:
            file: open for reading.
            size: its bytes.
            path: for errors.

        Raises:
            FormatError: it is not zstd-framed Safetensors, format 1.
            FileFailure: it cannot be read.
        """
        table = _read_table(file, size, path)
        decoder = FrameDecoder()
        frame_0 = bytearray(len(table.entries[0].content))
        _decode(file, path, decoder, 0, table.entries[0], memoryview(frame_0))
        view = memoryview(frame_0)
        with naming(str(path)):
            length = parse_header_length(view[:LENGTH_BYTES])
            if LENGTH_BYTES + length != len(frame_0):
                raise FormatError(
                    "Safetensors header", f"{length} bytes in a frame 0 of {len(frame_0)}: expected it alone"
                )
            header = parse_header(view[LENGTH_BYTES:], table.content_bytes)
        return cls(table, header, frame_0, file, path, decoder)

    def decode(self, index: int, destination: memoryview) -> None:
        """Read, check and decode one frame into destination, of exactly the size of its content.

        Raises:
            FormatError: the frame is malformed or damaged; it is named.
            FileFailure: the file cannot be read.
        """
        _decode(self._file, self._path, self._decoder, index, self.table.entries[index], destination)


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
