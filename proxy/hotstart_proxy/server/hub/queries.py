"""Parameters of the Hub's API, of a query or of a posted body, sans-IO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from hotstart_proxy.server.problems import InvalidQuery

__all__ = [
    "MAX_BODY_BYTES",
    "PathsQuery",
    "TreeQuery",
    "parse_paths_query",
    "parse_tree_query",
    "wants_blobs",
]

# Ten thousand paths of a hundred characters.
MAX_BODY_BYTES = 1024 * 1024
_MOST_FIELDS = 16
_MOST_PATHS = 20_000
# Clients ask for the next page at the host that they reached; what is one page needs no such guess. So a page
# holds more than nearly all models have files.
MOST_ENTRIES = 10_000
_TRUE = frozenset(("true", "1"))
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class TreeQuery:
    """How a folder is to be listed.

    Attributes:
        recursive: with all below it.
        expand: with the commit of each entry.
        limit: entries at most.
        cursor: the path that the page begins behind; empty for the first page.
    """

    recursive: bool = False
    expand: bool = False
    limit: int = MOST_ENTRIES
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class PathsQuery:
    """Which files and folders are asked about; expand as of a tree."""

    paths: tuple[str, ...]
    expand: bool = False


def parse_tree_query(query: str) -> TreeQuery:
    """Read the query of a listing.

    Raises:
        InvalidQuery: it has too many parameters, or an impossible limit.
    """
    values = _fields(query, _MOST_FIELDS)
    limit = MOST_ENTRIES
    if "limit" in values:
        text = values["limit"][-1]
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise InvalidQuery("limit", "expected a whole number from 1")
        limit = min(int(text), MOST_ENTRIES)
    return TreeQuery(
        recursive=_is_true(values, "recursive"),
        expand=_is_true(values, "expand"),
        limit=limit,
        cursor=values.get("cursor", [""])[-1],
    )


def wants_blobs(query: str) -> bool:
    """Tell whether sizes and digests of files are asked for (errors as ``parse_tree_query``)."""
    return _is_true(_fields(query, _MOST_FIELDS), "blobs")


def parse_paths_query(content_type: str, body: bytes) -> PathsQuery:
    """Read a posted list of paths, a form or JSON.

    Raises:
        InvalidQuery: it is neither, or does not say which paths.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidQuery("paths", "the body is not UTF-8") from error
    if content_type.partition(";")[0].strip().lower() in ("", _FORM):
        values = _fields(text, _MOST_PATHS)
        return PathsQuery(tuple(values.get("paths", ())), _is_true(values, "expand"))
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidQuery("paths", f"the body is neither a form ({_FORM}) nor JSON") from error
    paths = members.get("paths") if isinstance(members, dict) else None
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InvalidQuery("paths", "expected a list of strings")
    return PathsQuery(tuple(paths), members.get("expand") is True)


def _fields(query: str, most: int) -> Mapping[str, list[str]]:
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=most)
    except ValueError as error:
        raise InvalidQuery("query", f"expected at most {most} parameters") from error


def _is_true(values: Mapping[str, list[str]], name: str) -> bool:
    return values.get(name, [""])[-1].lower() in _TRUE
