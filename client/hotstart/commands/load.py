"""``hotstart load``: load a version as a function would, and print the time line."""

from __future__ import annotations

import argparse
import json
import sys

from .progress_bar import progress_bar
from .source_options import add_source_arguments, chosen_sources

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "load a version's tensors and print the time line"
_EXIT_MISSING_EXTRA = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("reference", metavar="REF", help="org/name, org/name@version or …@version/file")
    parser.add_argument(
        "--framework", choices=("numpy", "torch"), default="numpy", help="of the tensors (default: numpy)"
    )
    parser.add_argument(
        "--verify",
        choices=("none", "pieces", "full"),
        help="what to check (default: pieces of what comes over a network, nothing from this host)",
    )
    parser.add_argument(
        "--compression",
        choices=("auto", "none", "zstd", "planes"),
        default="auto",
        help="which twin to ask for, if there is one (default: auto, whichever is there first)",
    )
    add_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the time line as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Load and print the report."""
    from hotstart.frameworks.choice import MissingPackage
    from hotstart.loading import LoadOptions
    from hotstart.model import open_model

    try:
        options = LoadOptions(
            framework=arguments.framework, verify=arguments.verify, compression=arguments.compression
        )
    except MissingPackage as error:
        print(f"hotstart: {error}", file=sys.stderr)
        return _EXIT_MISSING_EXTRA
    model = open_model(arguments.reference, **chosen_sources(arguments))
    total_bytes = sum(file.size for file in model.selection().files)
    ready = []
    with progress_bar(model.reference, total_bytes, quiet=arguments.json) as advance:
        loading = model.begin(options)
        for tensor in loading:
            ready.append(tensor)
            advance(tensor.info.stop - tensor.info.start)
    report = loading.collect(ready).report
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report)
    return 0
