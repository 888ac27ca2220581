"""``hotstart ls``: the models of a proxy or an origin, the versions of a model, the files of a version."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from hotstart.report import format_bytes
from hotstart.wire.adoption import Layout
from hotstart.wire.errors import HotstartError
from hotstart.wire.references import Reference, parse_reference
from hotstart.wire.timestamps import format_timestamp

from .source_options import add_source_arguments, chosen_environment
from .terminal import printable

if TYPE_CHECKING:
    from hotstart.sources.environment import Environment
    from hotstart.sources.inventory import ModelDescription, StoreHoldings
    from hotstart.wire.adoption import Ignored
    from hotstart.wire.index import IndexEntry

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "list models, the versions of a model, or the files of a version"
# The size of a version stands in its manifest, which is a request each.
_SHOWN_VERSIONS = 20
_AT_ONCE = 8
_USE_TITLES = ("HITS", "USED", "FILLED")


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
        "stores": [
            {
                **_store(store),
                "models": {
                    model: {version: asdict(held) for version, held in versions.items()}
                    for model, versions in store.models.items()
                },
            }
            for store in inventory.stores
        ],
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
        "stores": [_store(store) for store in description.stores],
        "ignored": _ignored(description.ignored),
    }


def _store(store: StoreHoldings) -> dict[str, object]:
    return {"store": store.store, "used_bytes": store.used_bytes, "budget_bytes": store.budget_bytes}


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
        "is_pinned": entry.version in description.pinned,
        "cached_bytes": sum(description.cached.get(entry.version, {}).values()),
        "stores": [
            {"store": store.store, **asdict(held)}
            for store in description.stores
            for version, held in store.models.get(index.model, {}).items()
            if version == entry.version
        ],
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
        stores = found["stores"]
        assert isinstance(stores, list)
        titles = ("VERSION", "ALIASES", "PUBLISHED", "SIZE", "CACHED", *(_USE_TITLES if stores else ()))
        rows = [(*_version_row(item), *(_use_row(item) if stores else ())) for item in versions]
        lines += _table(titles, rows)
        if found["older_versions"]:
            lines.append(f"and {found['older_versions']} older ones: --all lists them")
        lines += _store_lines(versions, stores)
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
        f"{item['version']}{''.join(f' ({mark})' for mark in ('adopted', 'pinned') if item[f'is_{mark}'])}",
        ", ".join(aliases) or "–",
        str(item["published_at"]),
        format_bytes(size) if isinstance(size, int) else "?",
        _held(item),
    )


def _use_row(item: Mapping[str, object]) -> tuple[str, ...]:
    """Return how the first store that has it was used: it is the one that readers are served from."""
    stores = item["stores"]
    assert isinstance(stores, list)
    if not stores:
        return ("–", "–", "–")
    first = stores[0]
    return str(first["hits"]), _ago(first["used_seconds_ago"]), _ago(first["filled_seconds_ago"])


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _store_lines(versions: Sequence[Mapping[str, Any]], stores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where it is cached: a line a store, with what of these versions lies in it."""
    lines = [""] if stores else []
    for store in stores:
        held = [
            f"{item['version']} ({format_bytes(place['bytes'])})"
            for item in versions
            for place in item["stores"]
            if place["store"] == store["store"]
        ]
        used, budget = format_bytes(store["used_bytes"]), format_bytes(store["budget_bytes"])
        lines.append(
            printable(f"{store['store']}: {used} of {budget} used; here {', '.join(held) or 'nothing'}")
        )
    return lines


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
