"""``hotstart alias``: make names mean versions."""

from __future__ import annotations

import argparse
import json
import os

from hotstart.wire.references import check_alias, check_model, check_version
from hotstart_proxy.commands.interruption import run_interruptibly
from hotstart_proxy.commands.notify_argument import add_notify_argument, tell_proxies
from hotstart_proxy.commands.origin_arguments import (
    add_json_argument,
    add_layout_argument,
    add_origin_argument,
    checked,
)
from hotstart_proxy.publishing.aliases import Moved, move_aliases
from hotstart_proxy.publishing.publisher import now_ms

SUMMARY = "Make aliases mean versions; several move at once."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("model", metavar="org/name", type=checked(check_model))
    parser.add_argument(
        "moves",
        metavar="NAME=VERSION",
        nargs="+",
        type=checked(_parse_move),
        help="NAME= removes the alias; all moves happen in one step, or none does",
    )
    add_origin_argument(parser)
    add_layout_argument(parser, "for an alias of such a version")
    add_notify_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(refuse=parser.error)


def _parse_move(text: str) -> tuple[str, str | None]:
    alias, equals, version = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VERSION, or NAME= to remove the alias")
    return check_alias(alias), check_version(version) if version else None


def run(arguments: argparse.Namespace) -> int:
    """Move the aliases, and return the exit status."""
    moves = dict(arguments.moves)
    if len(moves) < len(arguments.moves):
        arguments.refuse("an alias was given twice")
    return run_interruptibly(
        lambda: _move(arguments, moves), "Either all moved or none did: hotstart ls says which."
    )


async def _move(arguments: argparse.Namespace, moves: dict[str, str | None]) -> int:
    from hotstart_proxy.origins.urls import open_origin

    async with open_origin(arguments.origin, os.environ) as origin:
        moved = await move_aliases(origin, arguments.model, moves, arguments.layout, now_ms())
    notified = await tell_proxies(arguments.notify, moved.model)
    if arguments.json:
        summary = {"model": moved.model, "aliases": moved.aliases, "before": moved.before}
        print(json.dumps({**summary, **notified}))
    else:
        for alias in moves:
            print(f"{moved.model}@{alias}: {_change(moved, alias)}")
    return 0


def _change(moved: Moved, alias: str) -> str:
    before, after = moved.before.get(alias), moved.aliases.get(alias)
    if after is None:
        return f"removed (was {before})" if before else "removed"
    if before == after:
        return f"{after}, as before"
    return f"{after} (was {before})" if before else after
