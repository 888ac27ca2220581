"""``hotstart pull``: all files of a version in a folder."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from .progress_bar import progress_bar
from .source_options import add_source_arguments, chosen_sources

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "download all files of a version, or one of them, into a folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("reference", metavar="REF", help="org/name, org/name@version or …@version/file")
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        help="where to put them (default: ~/.cache/hotstart/ORG/NAME/VERSION); printed at the end",
    )
    add_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Download and print the folder."""
    from hotstart.downloads import Download
    from hotstart.model import open_model

    started = time.perf_counter()
    model = open_model(arguments.reference, **chosen_sources(arguments))
    # No symbolic links: the process that could hold their blobs' locks ends with this command.
    download = Download(model.opened, arguments.folder)
    files = download.files
    total_bytes = sum(file.size for file in files)
    with progress_bar(model.reference, total_bytes, quiet=arguments.json) as advance:
        download.progress = advance
        folder = download.run().absolute()
    if not arguments.json:
        print(folder)
        return 0
    done = {
        "reference": model.reference,
        "version": model.version,
        "folder": str(folder),
        "files": len(files),
        "bytes": total_bytes,
        "received_bytes": dict(model.sources.used),
        "seconds": round(time.perf_counter() - started, 6),
    }
    print(json.dumps(done, indent=2))
    return 0
