"""The command ``hotstart``: finds its subcommands by entry point and loads only the one that is asked for.

A subcommand is a module with ``SUMMARY``, ``add_arguments(parser)`` and ``run(arguments) -> exit status``,
registered in the group ``hotstart.commands``. So the proxy's commands appear when the proxy is installed and
the client never imports it.

Exit status: 0 done, 1 a ``HotstartError`` (its message is on stderr), 2 wrong usage or a missing extra,
130 interrupted, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from types import ModuleType

from hotstart._version import __version__
from hotstart.wire.errors import HotstartError

__all__ = ["command_parser", "find_commands", "main"]

GROUP = "hotstart.commands"
_DISTRIBUTION = "hotstart"
_OURS = ("hotstart", "hotstart_proxy")
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+).*\bextra\s*==\s*['"]([^'"]+)['"]""")
# Extras that install others: naming them would install more than is missing.
_BUNDLES = frozenset({"bench", "dev"})
_EXIT_ERROR = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 128 + 2
_EXIT_BROKEN_PIPE = 128 + 13


class MissingExtra(HotstartError):
    """A subcommand needs a package that the installation lacks.

    Attributes:
        command: the subcommand.
        module: the module that could not be imported.
        extra: the extra of hotstart that brings it.
    """

    def __init__(self, command: str, module: str, extra: str) -> None:
        self.command = command
        self.module = module
        self.extra = extra
        super().__init__(
            f"hotstart {command} needs the package {module}, which is not installed: "
            f"pip install 'hotstart[{extra}]'"
        )


def find_commands() -> Mapping[str, metadata.EntryPoint]:
    """Return the registered subcommands by name, without loading any."""
    return {point.name: point for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name)}


def command_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of one loaded subcommand."""
    parser = argparse.ArgumentParser(
        prog=f"hotstart {name}",
        description=module.SUMMARY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; argv is without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except MissingExtra as error:
        print(f"hotstart: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except HotstartError as error:
        print(f"hotstart: {error}", file=sys.stderr)
        return _EXIT_ERROR
    except KeyboardInterrupt:
        print("hotstart: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end, which would raise the same again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    return status


def _dispatch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="hotstart",
        description="Load models without waiting for their download.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this list and exit")
    parser.add_argument("--version", action="version", version=f"hotstart {__version__}")
    parser.add_argument("command", nargs="?", help="hotstart COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if arguments and not arguments[0].startswith("-"):
        # Not parsed by the outer parser: it would take the subcommand's options for its own.
        return _run(parser, arguments[0], arguments[1:])
    asked = parser.parse_args(arguments)
    if asked.command is not None and not asked.help:
        return _run(parser, asked.command, asked.arguments)
    print(_overview(parser), file=sys.stdout if asked.help else sys.stderr)
    return 0 if asked.help else _EXIT_USAGE


def _run(parser: argparse.ArgumentParser, name: str, arguments: list[str]) -> int:
    commands = find_commands()
    point = commands.get(name)
    if point is None:
        parser.error(f"no command {name!r}: there are {', '.join(commands) or 'none (reinstall hotstart)'}")
    try:
        module: ModuleType = point.load()
        status: int = module.run(command_parser(name, module).parse_args(arguments))
    except ModuleNotFoundError as error:
        extra = _extra_of(error, point)
        if extra is None:
            raise
        raise MissingExtra(name, str(error.name).partition(".")[0], extra) from error
    return status


def _overview(parser: argparse.ArgumentParser) -> str:
    lines = [parser.format_help(), "commands:"]
    for name, point in find_commands().items():
        try:
            summary = point.load().SUMMARY
        except ModuleNotFoundError as error:
            extra = _extra_of(error, point)
            if extra is None:
                raise
            summary = f"(needs pip install 'hotstart[{extra}]')"
        lines.append(f"  {name:<10} {summary}")
    return "\n".join(lines)


def _extra_of(error: ModuleNotFoundError, point: metadata.EntryPoint) -> str | None:
    """Return the extra that brings the module which could not be imported; None if it is one of our own."""
    missing = (error.name or "").partition(".")[0]
    if not missing or missing in _OURS:
        return None
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        match = _REQUIREMENT.match(requirement)
        if match is not None and match[2] not in _BUNDLES and _import_name(match[1]) == missing.lower():
            return match[2]
    # A package that one of the proxy's own requirements should have brought.
    return "proxy" if point.module.startswith("hotstart_proxy") else None


def _import_name(distribution: str) -> str:
    return re.sub(r"[-.]", "_", distribution).lower()
