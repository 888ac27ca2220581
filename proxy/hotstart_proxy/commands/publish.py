"""``hotstart publish``: put a folder at an origin as a version, or add twins to one put by other means."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from hotstart.wire.errors import InvalidReference
from hotstart.wire.manifest import TWIN_SUFFIXES
from hotstart.wire.references import Reference, check_alias, parse_reference
from hotstart.wire.timestamps import format_timestamp
from hotstart_proxy.commands.interruption import run_interruptibly
from hotstart_proxy.commands.notify_argument import add_notify_argument, tell_proxies
from hotstart_proxy.commands.origin_arguments import (
    add_json_argument,
    add_layout_argument,
    add_origin_argument,
    checked,
)
from hotstart_proxy.commands.publishing_progress import drawn_progress
from hotstart_proxy.publishing.additions import TwinsAdded, add_twins
from hotstart_proxy.publishing.folder import LeftOut
from hotstart_proxy.publishing.publisher import Published, PublishedTwin, now_ms, publish
from hotstart_proxy.publishing.twin_uploads import TwinChoice
from hotstart_proxy.publishing.version_states import exact_version

SUMMARY = "Publish a model folder as an immutable version."
_HOW_TO_GO_ON = (
    "A version that is not complete stays invisible; the same command goes on where it ended, and hotstart "
    "unpublish clears it."
)
_MAX_LISTED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.usage = (
        "hotstart publish [options] DIR org/name@version\n"
        "       hotstart publish [options] --twins org/name@version"
    )
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", help="the model's folder; hidden folders stay out"
    )
    parser.add_argument(
        "reference",
        metavar="org/name@version",
        nargs="?",
        help="what to publish it as; must not be there yet",
    )
    add_origin_argument(parser)
    add_publish_options(parser)
    parser.add_argument(
        "--twins",
        metavar="org/name@version",
        type=checked(version_reference),
        help="publish nothing, but add twins to a version that was uploaded by other means",
    )
    add_layout_argument(parser, "for --twins")
    add_json_argument(parser)
    parser.set_defaults(refuse=parser.error)


def add_publish_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that publishes a folder can be told."""
    parser.add_argument(
        "--alias", metavar="NAME", type=checked(check_alias), help="make this alias mean the version, at once"
    )
    parser.add_argument(
        "--metadata",
        metavar="KEY=VALUE",
        type=_key_and_value,
        action="append",
        default=[],
        help="a string of your own for the manifest; may be repeated",
    )
    parser.add_argument(
        "--suffix",
        choices=[suffix.removeprefix(".") for suffix in TWIN_SUFFIXES],
        action="append",
        help="which twins to make: zst (zstd-framed), zsp (byte planes); may be repeated; default: zst where "
        "it pays, and zsp too where it is smaller by another 3%%",
    )
    add_notify_argument(parser)


def version_reference(text: str) -> Reference:
    """Parse a reference that names a version.

    Raises:
        InvalidReference: it does not.
    """
    reference = parse_reference(text)
    exact_version(reference)
    return reference


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8") from error
    return key, value


def _twin_choice(arguments: argparse.Namespace) -> TwinChoice:
    return TwinChoice(
        None if arguments.suffix is None else frozenset(f".{name}" for name in arguments.suffix)
    )


def run(arguments: argparse.Namespace) -> int:
    """Publish, print a summary, and return the exit status."""
    if arguments.twins is not None:
        if arguments.folder is not None or arguments.alias is not None or arguments.metadata:
            arguments.refuse("--twins stands alone: it takes no DIR, --alias or --metadata")
        return run_interruptibly(lambda: _add_twins(arguments), "The same command goes on where it ended.")
    if not arguments.folder or arguments.reference is None:
        # An empty DIR, as an unset variable gives it, would be the current folder.
        arguments.refuse("expected DIR and org/name@version (or --twins org/name@version)")
    try:
        reference = version_reference(arguments.reference)
    except InvalidReference as error:
        arguments.refuse(str(error))
    check_publish_options(arguments)
    return publish_folder(arguments, Path(arguments.folder), reference)


def check_publish_options(arguments: argparse.Namespace) -> None:
    """Refuse, as wrong usage, what cannot be right."""
    if len(dict(arguments.metadata)) < len(arguments.metadata):
        arguments.refuse("--metadata: a key was given twice")


def publish_folder(
    arguments: argparse.Namespace,
    folder: Path,
    reference: Reference,
    told: Mapping[str, object] = MappingProxyType({}),
) -> int:
    """Publish folder as arguments say, print a summary, and return the exit status.

    Args:
        arguments: with the options of ``add_publish_options``, ``--origin`` and ``--json``.
        folder: what to publish.
        reference: names a version.
        told: what else the summary in JSON tells.
    """
    return run_interruptibly(lambda: _publish(arguments, folder, reference, told), _HOW_TO_GO_ON)


async def _publish(
    arguments: argparse.Namespace, folder: Path, reference: Reference, told: Mapping[str, object]
) -> int:
    from hotstart_proxy.origins.urls import open_origin

    began = time.monotonic()
    async with open_origin(arguments.origin, os.environ) as origin:
        with drawn_progress() as progress:
            published = await publish(
                origin,
                folder,
                reference,
                alias=arguments.alias,
                metadata=dict(arguments.metadata),
                twins=_twin_choice(arguments),
                progress=progress,
            )
    seconds = time.monotonic() - began
    notified = await tell_proxies(arguments.notify, published.model)
    if arguments.json:
        print(json.dumps({**told, **_publish_summary(published, seconds), **notified}))
    else:
        _print_published(published, seconds)
    return 0


async def _add_twins(arguments: argparse.Namespace) -> int:
    from hotstart_proxy.origins.urls import open_origin

    began = time.monotonic()
    async with open_origin(arguments.origin, os.environ) as origin:
        with drawn_progress() as progress:
            added = await add_twins(
                origin,
                arguments.twins,
                arguments.layout,
                now_ms(),
                progress,
                choice=_twin_choice(arguments),
            )
    seconds = time.monotonic() - began
    notified = await tell_proxies(arguments.notify, added.model)
    if arguments.json:
        print(json.dumps({**_twins_summary(added, seconds), **notified}))
    else:
        print(f"{added.model}@{added.version}: {_count(len(added.twins), 'twin')} ({added.outcome})")
        _print_twins(added.twins)
        _print_sent(added.sent_objects, added.sent_bytes, seconds)
    return 0


def _print_published(published: Published, seconds: float) -> None:
    _print_left_out(published.left_out)
    print(
        f"{published.model}@{published.version} {published.outcome}: {_count(published.files, 'file')}, "
        f"{published.size:,} bytes"
    )
    _print_twins(published.twins)
    if published.aliases:
        print(f"aliases: {', '.join(published.aliases)}")
    _print_sent(published.sent_objects, published.sent_bytes, seconds)


def _print_sent(objects: int, count: int, seconds: float) -> None:
    speed = f" ({_gigabytes_per_second(count, seconds):.2f} GB/s)" if count else ""
    print(f"sent {_count(objects, 'object')}, {count:,} bytes, in {seconds:.1f} s{speed}")


def _print_left_out(left_out: Sequence[LeftOut]) -> None:
    for item in left_out[:_MAX_LISTED]:
        print(f"left out: {item.path} ({item.reason})", file=sys.stderr)
    if len(left_out) > _MAX_LISTED:
        print(f"left out: {len(left_out) - _MAX_LISTED} more", file=sys.stderr)


def _print_twins(twins: Sequence[PublishedTwin]) -> None:
    for twin in twins:
        print(f"{twin.path}: {twin.size:,} bytes, {twin.size / twin.file_size:.1%} of the file")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _gigabytes_per_second(count: int, seconds: float) -> float:
    return count / 1e9 / seconds if seconds else 0.0


def _publish_summary(published: Published, seconds: float) -> dict[str, object]:
    return {
        "model": published.model,
        "version": published.version,
        "outcome": published.outcome.value,
        "published_at": format_timestamp(published.published_at),
        "files": published.files,
        "bytes": published.size,
        "twins": _twins(published.twins),
        "aliases": list(published.aliases),
        "left_out": [{"path": item.path, "reason": item.reason} for item in published.left_out],
        **_sent(published.sent_objects, published.sent_bytes, seconds),
    }


def _twins_summary(added: TwinsAdded, seconds: float) -> dict[str, object]:
    return {
        "model": added.model,
        "version": added.version,
        "outcome": added.outcome.value,
        "twins": _twins(added.twins),
        **_sent(added.sent_objects, added.sent_bytes, seconds),
    }


def _twins(twins: Sequence[PublishedTwin]) -> list[dict[str, object]]:
    return [
        {"path": twin.path, "bytes": twin.size, "ratio": round(twin.size / twin.file_size, 4)}
        for twin in twins
    ]


def _sent(objects: int, count: int, seconds: float) -> dict[str, object]:
    return {
        "sent_objects": objects,
        "sent_bytes": count,
        "seconds": round(seconds, 3),
        "gigabytes_per_second": round(_gigabytes_per_second(count, seconds), 3),
    }
