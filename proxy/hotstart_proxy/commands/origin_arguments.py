"""What the commands that write to an origin have in common on their command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TypeVar

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import HotstartError

__all__ = ["add_json_argument", "add_layout_argument", "add_origin_argument", "checked"]

T = TypeVar("T")

_ORIGIN_VARIABLE = "HOTSTART_ORIGIN"


def add_origin_argument(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Add ``--origin``; it may be left out where the environment names one, or if it is not needed."""
    default = os.environ.get(_ORIGIN_VARIABLE) or None
    parser.add_argument(
        "--origin",
        metavar="URL",
        default=default,
        required=needed and default is None,
        help=f"s3://bucket/prefix or file:///path (default: ${_ORIGIN_VARIABLE})",
    )


def add_layout_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--layout``, which says where adopted versions lie; what says when it matters."""
    parser.add_argument(
        "--layout",
        metavar="TEMPLATE",
        type=checked(Layout.parse),
        default=Layout(),
        help=f"where plain files lie that were uploaded by other means, {what} (default: {Layout.DEFAULT})",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return parse as argparse wants it: what is wrong is said as a wrong argument, with exit status 2."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except HotstartError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument
