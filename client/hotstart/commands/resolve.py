"""``hotstart resolve``: the version that a reference means now, for whoever fetches its files one by one."""

from __future__ import annotations

import argparse
import json

from .source_options import add_source_arguments, chosen_sources

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "print the version that a reference means, or its prefix in S3's protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("reference", metavar="REF", help="org/name, org/name@version or org/name@alias")
    parser.add_argument(
        "--s3", action="store_true", help="print s3://models/ORG/NAME/VERSION/ for S3 clients of a proxy"
    )
    parser.add_argument(
        "--bucket",
        metavar="NAME",
        default="models",
        help="what the proxy calls its bucket (--s3-bucket; default: models)",
    )
    add_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print model, version and prefix as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Resolve, once, and print what came of it."""
    from hotstart.model import open_model
    from hotstart.wire.references import Reference, parse_reference

    asked = parse_reference(arguments.reference)
    whole = Reference(asked.model, asked.selector)
    version = open_model(str(whole), **chosen_sources(arguments)).version
    prefix = f"s3://{arguments.bucket}/{asked.model}/{version}/{asked.file or ''}"
    if arguments.json:
        print(json.dumps({"model": asked.model, "version": version, "s3": prefix}, indent=2))
    else:
        print(prefix if arguments.s3 else version)
    return 0
