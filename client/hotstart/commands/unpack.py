"""``hotstart unpack``: turn a twin back into the Safetensors file that was packed, verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from hotstart.commands.framed_file import FramedFile
from hotstart.commands.local_files import FileFailure, new_file, open_file
from hotstart.wire.frames import FRAME_BYTES
from hotstart.wire.manifest import TWIN_SUFFIXES

SUMMARY = "Turn a packed .safetensors.zst or .zsp back into the .safetensors file, every frame verified."
_SUFFIXES = " or ".join(TWIN_SUFFIXES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a file that hotstart pack wrote")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help=f"default: FILE without {_SUFFIXES}")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(arguments: argparse.Namespace) -> int:
    """Unpack one file."""
    source: Path = arguments.file
    output: Path | None = arguments.output
    if output is None:
        if source.suffix not in TWIN_SUFFIXES or source.name in TWIN_SUFFIXES:
            raise FileFailure(source, "unpack", f"its name does not end in {_SUFFIXES}; say where to with -o")
        output = source.with_suffix("")
    size = unpack_file(source, output, force=arguments.force)
    print(f"{output}: {size:,} bytes")
    return 0


def unpack_file(source: Path, output: Path, *, force: bool) -> int:
    """Write the Safetensors file that source holds to output, frame by frame, whole or not at all.

    Returns:
        Bytes written.

    Raises:
        FormatError: source is malformed or damaged; nothing is written.
        FileFailure: source cannot be read, output cannot be written or is there already (without force).
    """
    with open_file(source) as (file, size):
        framed = FramedFile.read(file, size, source)
        with new_file(output, source=source, force=force) as new:
            new.file.write(framed.frame_0)
            buffer = memoryview(bytearray(FRAME_BYTES))
            for index, entry in enumerate(framed.table.entries[1:], start=1):
                view = buffer[: len(entry.content)]
                framed.decode(index, view)
                new.file.write(view)
    return framed.table.content_bytes
