"""``hotstart convert``: make Safetensors of what torch saved, and publish it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hotstart.termination import ending_on_sigterm
from hotstart_proxy.commands.origin_arguments import add_json_argument, add_origin_argument, checked
from hotstart_proxy.commands.publish import (
    add_publish_options,
    check_publish_options,
    publish_folder,
    version_reference,
)
from hotstart_proxy.publishing.convert import Conversion, convert
from hotstart_proxy.publishing.errors import NoRoom
from hotstart_proxy.publishing.safetensors_files import CAST_TO

SUMMARY = "Convert a .pt, .pth or .bin, or a folder of them, to Safetensors."
_MAX_LISTED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("source", metavar="PATH", type=Path, help="a checkpoint, or a model's folder")
    parser.add_argument("--out", metavar="DIR", type=Path, help="a folder to be; new or empty")
    parser.add_argument(
        "--dtype",
        choices=sorted(CAST_TO),
        help="cast floats to it; integers stay, and so do floats of 8 bits",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        help="take the tensors in this entry alone, without its name: model_state_dict, say; for one file",
    )
    parser.add_argument(
        "--publish",
        metavar="org/name@version",
        type=checked(version_reference),
        help="publish the new folder, with the options of hotstart publish",
    )
    add_origin_argument(parser, needed=False)
    add_publish_options(parser)
    add_json_argument(parser)
    parser.set_defaults(refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Convert, publish if asked to, print summaries, and return the exit status."""
    if arguments.out is None and arguments.publish is None:
        arguments.refuse("give --out DIR, --publish org/name@version, or both")
    if arguments.publish is None:
        if arguments.alias or arguments.metadata or arguments.suffix or arguments.notify:
            arguments.refuse("--alias, --metadata, --suffix and --notify need --publish")
    elif arguments.origin is None:
        arguments.refuse("--publish needs --origin URL, or HOTSTART_ORIGIN")
    check_publish_options(arguments)
    if arguments.only is not None and arguments.source.is_dir():
        arguments.refuse("--only is for a single file")
    if arguments.out is not None:
        return _convert(arguments, arguments.out)
    # SIGTERM during the publish ends that in order by itself.
    with ending_on_sigterm():
        try:
            temporary = tempfile.TemporaryDirectory(prefix="hotstart-convert-")
        except OSError as error:
            raise NoRoom(tempfile.gettempdir(), error.strerror or str(error)) from error
        with temporary as name:
            return _convert(arguments, Path(name) / "model")


def _convert(arguments: argparse.Namespace, output: Path) -> int:
    cast_to = None if arguments.dtype is None else CAST_TO[arguments.dtype]
    conversion = convert(arguments.source, output, cast_to=cast_to, only=arguments.only)
    _print_notes(conversion)
    told = _summary(conversion)
    if not arguments.json:
        _print_files(conversion)
    elif arguments.publish is None:
        print(json.dumps(told))
    if arguments.publish is None:
        return 0
    return publish_folder(arguments, output, arguments.publish, told)


def _print_files(conversion: Conversion) -> None:
    for file in conversion.files:
        print(f"{file.source} -> {file.path}: {file.tensors:,} tensors, {file.size:,} bytes")
    if conversion.copied:
        print(f"copied {len(conversion.copied):,} other file" + ("" if len(conversion.copied) == 1 else "s"))


def _print_notes(conversion: Conversion) -> None:
    _print_few([f"left out: {item.path} ({item.reason})" for item in conversion.left_out])
    for file in conversion.files:
        _print_few([f"left out: {item.name} of {file.source} ({item.what})" for item in file.ignored])
        _print_few(
            [f"{name} shares memory with {other}: each is written in full" for name, other in file.shared]
        )


def _print_few(lines: list[str]) -> None:
    for line in lines[:_MAX_LISTED]:
        print(line, file=sys.stderr)
    if len(lines) > _MAX_LISTED:
        print(f"and {len(lines) - _MAX_LISTED} more like the last", file=sys.stderr)


def _summary(conversion: Conversion) -> Mapping[str, object]:
    return {
        "converted": [
            {
                "source": file.source,
                "path": file.path,
                "tensors": file.tensors,
                "bytes": file.size,
                "ignored": [{"name": item.name, "what": item.what} for item in file.ignored],
                "shared": [list(pair) for pair in file.shared],
            }
            for file in conversion.files
        ],
        "copied": list(conversion.copied),
        "not_converted": [{"path": item.path, "reason": item.reason} for item in conversion.left_out],
    }
