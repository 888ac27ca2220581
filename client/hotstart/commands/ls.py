"""``hotstart ls``: the models of a proxy or an origin, the versions of a model, the files of a version."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hotstart.report import format_bytes
from hotstart.wire.adoption import Layout
from hotstart.wire.errors import HotstartError
from hotstart.wire.references import Reference, parse_reference
from hotstart.wire.timestamps import format_timestamp

from .source_options import add_source_arguments, chosen_environment
from .terminal import printable

if TYPE_CHECKING:
    from hotstart.sources.environment import Environment
    from hotstart.sources.inventory import ModelDescription
    from hotstart.wire.adoption import Ignored
    from hotstart.wire.index import IndexEntry

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "list models, the versions of a model, or the files of a version"
# The size of a version stands in its manifest, which is a request each.
_SHOWN_VERSIONS = 20
_AT_ONCE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "reference",
        metavar="MODEL",
        nargs="?",
        help="org/name for its versions, org/name@version for its files (default: all models)",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--layout",
        metavar="TEMPLATE",
        type=_parse_layout,
        help=f"where plain files lie at the origin that were uploaded by other means "
        f"(default: {Layout.DEFAULT})",
    )
    parser.add_argument("--all", action="store_true", help=f"all versions, not the newest {_SHOWN_VERSIONS}")
    parser.add_argument("--json", action="store_true", help="print what there is as JSON")


def _parse_layout(text: str) -> Layout:
    try:
        return Layout.parse(text)
    except HotstartError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print what there is."""
    reference = None if arguments.reference is None else parse_reference(arguments.reference)
    environment = replace(chosen_environment(arguments), layout=arguments.layout)
    if reference is None:
        found = _models(environment)
    elif reference.selector is None:
        found = _versions(environment, reference, show_all=arguments.all)
    else:
        found = _files(environment, reference)
    print(json.dumps(found, indent=2) if arguments.json else _as_text(found))
    return 0


def _models(environment: Environment) -> dict[str, object]:
    from hotstart.sources.inventory import list_models

    inventory = list_models(environment)
    return {
        "source": inventory.source,
        "models": list(inventory.models),
        "ignored": _ignored(inventory.strays),
    }


def _versions(environment: Environment, reference: Reference, *, show_all: bool) -> dict[str, object]:
    from hotstart.sources.inventory import describe_model

    description = describe_model(environment, reference.model)
    index = description.index
    entries: Sequence[IndexEntry] = () if index is None else index.versions[::-1]
    shown = entries if show_all else entries[:_SHOWN_VERSIONS]
    sizes = _sizes(environment, reference.model, shown)
    return {
        "source": description.source,
        "model": reference.model,
        "versions": [_version(description, entry, sizes) for entry in shown],
        "older_versions": len(entries) - len(shown),
        "ignored": _ignored(description.ignored),
    }


def _version(description: ModelDescription, entry: IndexEntry, sizes: Mapping[str, int]) -> dict[str, object]:
    index = description.index
    assert index is not None
    names = sorted(alias for alias, target in index.aliases.items() if target == entry.version)
    if index.latest() == entry.version:
        names.append("latest")
    return {
        "version": entry.version,
        "aliases": names,
        "published_at": format_timestamp(entry.published_at),
        "bytes": sizes.get(entry.version),
        "is_adopted": entry.version in description.adopted,
        "is_kept": entry.version in description.kept,
        "cached_bytes": sum(description.cached.get(entry.version, {}).values()),
    }


def _sizes(environment: Environment, model: str, entries: Sequence[IndexEntry]) -> dict[str, int]:
    """Return the bytes of each version whose manifest could be read."""
    from concurrent.futures import ThreadPoolExecutor

    from hotstart.sources.base import AllSourcesFailed
    from hotstart.sources.chain import open_reference

    def size(entry: IndexEntry) -> tuple[str, int] | None:
        try:
            opened = open_reference(Reference(model, entry.version), environment)
        except AllSourcesFailed:
            return None
        return entry.version, sum(file.size for file in opened.opening.manifest.files)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return dict(found for found in threads.map(size, entries) if found is not None)


def _files(environment: Environment, reference: Reference) -> dict[str, object]:
    from hotstart.sources.chain import open_reference

    opened = open_reference(Reference(reference.model, reference.selector), environment)
    manifest, held = opened.opening.manifest, opened.opening.cached
    return {
        "source": opened.opened_by,
        "model": manifest.model,
        "version": manifest.version,
        "files": [
            {
                "path": representation.path,
                "bytes": representation.size,
                "sha256": representation.sha256,
                "cached_bytes": held.get(representation.path, 0),
            }
            for file in manifest.files
            if reference.file in (None, file.path)
            for representation in file.representations()
        ],
    }


def _ignored(ignored: Sequence[Ignored]) -> list[dict[str, str]]:
    return [{"key": item.key, "reason": item.reason} for item in ignored]


# As text.


def _as_text(found: dict[str, object]) -> str:
    lines: list[str] = []
    models, versions, files = found.get("models"), found.get("versions"), found.get("files")
    if isinstance(models, list):
        lines += models or [f"no models ({found['source']})"]
    if isinstance(versions, list):
        lines += _table(
            ("VERSION", "ALIASES", "PUBLISHED", "SIZE", "CACHED"), [_version_row(item) for item in versions]
        )
        if found["older_versions"]:
            lines.append(f"and {found['older_versions']} older ones: --all lists them")
    if isinstance(files, list):
        rows = [
            (item["path"], format_bytes(item["bytes"]), (item["sha256"] or "unknown")[:12], _held(item))
            for item in files
        ]
        lines += _table(("FILE", "SIZE", "SHA256", "CACHED"), rows)
    ignored = found.get("ignored")
    if isinstance(ignored, list) and ignored:
        lines += ["", "ignored:"]
        lines += [printable(f"  {item['key']}: {item['reason']}") for item in ignored]
    return "\n".join(lines)


def _version_row(item: Mapping[str, object]) -> tuple[str, ...]:
    aliases, size = item["aliases"], item["bytes"]
    assert isinstance(aliases, list)
    return (
        f"{item['version']}{' (adopted)' if item['is_adopted'] else ''}",
        ", ".join(aliases) or "–",
        str(item["published_at"]),
        format_bytes(size) if isinstance(size, int) else "?",
        _held(item),
    )


def _held(item: Mapping[str, object]) -> str:
    held = item["cached_bytes"]
    assert isinstance(held, int)
    return format_bytes(held) if held else "–"


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [titles, *rows]
    ]
