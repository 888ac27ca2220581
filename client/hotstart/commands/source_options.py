"""The options that say where to read from, the same for every command that reads."""

from __future__ import annotations

import argparse
import os

from hotstart.sources.environment import Environment

__all__ = ["add_source_arguments", "chosen_environment", "chosen_sources"]


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--proxy``, ``--origin`` and ``--token``, each in place of its ``HOTSTART_…`` variable."""
    parser.add_argument(
        "--proxy",
        metavar="URL",
        help="http://host:8470 or unix:/run/hotstart.sock (default: $HOTSTART_PROXY)",
    )
    parser.add_argument(
        "--origin",
        metavar="URL",
        help="s3://bucket/prefix or file:///path, read without a proxy or when it is lost "
        "(default: $HOTSTART_ORIGIN)",
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="for the proxy; other users of this machine can see it here (default: $HOTSTART_TOKEN)",
    )


def chosen_sources(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return the options as ``hotstart.open`` takes them."""
    return {"proxy": arguments.proxy, "origin": arguments.origin, "token": arguments.token}


def chosen_environment(arguments: argparse.Namespace) -> Environment:
    """Return where to look for what there is: only where an option says, if one does.

    Raises:
        InvalidEnvironment: an option or a variable is wrong.
    """
    proxy, origin = arguments.proxy, arguments.origin
    if origin is not None and proxy is None:
        proxy = ""
    elif proxy is not None and origin is None:
        origin = ""
    return Environment.from_environ(os.environ, proxy=proxy, origin=origin, token=arguments.token)
