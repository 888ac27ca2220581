"""``hotstart unpublish``: remove a version from an origin, or what an interrupted publish left."""

from __future__ import annotations

import argparse
import json
import os

from hotstart.wire.references import parse_reference
from hotstart_proxy.commands.interruption import run_interruptibly
from hotstart_proxy.commands.origin_arguments import add_json_argument, add_origin_argument, checked
from hotstart_proxy.publishing.removal import unpublish

SUMMARY = "Remove a version, or clear what an interrupted publish left."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument(
        "reference", metavar="org/name@version", type=checked(parse_reference), help="no alias may mean it"
    )
    add_origin_argument(parser)
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Unpublish without asking, and return the exit status."""
    return run_interruptibly(lambda: _unpublish(arguments), "The same command goes on where it ended.")


async def _unpublish(arguments: argparse.Namespace) -> int:
    from hotstart_proxy.origins.urls import open_origin

    async with open_origin(arguments.origin, os.environ) as origin:
        gone = await unpublish(origin, arguments.reference)
    if arguments.json:
        print(
            json.dumps(
                {
                    "model": gone.model,
                    "version": gone.version,
                    "was_published": gone.was_published,
                    "objects": gone.objects,
                    "bytes": gone.size,
                }
            )
        )
    else:
        what = "unpublished" if gone.was_published else "cleared an interrupted publish of"
        print(f"{what} {gone.model}@{gone.version}: {gone.objects:,} objects, {gone.size:,} bytes")
    return 0
