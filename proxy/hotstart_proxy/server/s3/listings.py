"""Listings: a page of keys and common prefixes, in S3's order, out of the tree of models and versions.

Keys are ``org/name/version/file``. Only what a page needs is asked for: under a delimiter whole branches fold
into one prefix, and branches before the page's beginning are passed over.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hotstart.wire.manifest import File

__all__ = ["MOST_KEYS", "Listed", "ListingQuery", "Page", "Tree", "list_page", "parse_token", "token"]

# S3's own limit for a page.
MOST_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing.

    Attributes:
        name: a key, or a common prefix, which ends with the delimiter.
        size: bytes; None for a common prefix.
        content_id: of the object; None likewise.
        published_at: milliseconds since the epoch.
    """

    name: str
    size: int | None = None
    content_id: str | None = None
    published_at: int = 0


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """What is asked for.

    Attributes:
        prefix: of the keys.
        delimiter: up to whose first occurrence behind the prefix keys fold; empty for none.
        after: keys and prefixes up to and with this one are left out; empty for none.
        most: 0 to ``MOST_KEYS``.
    """

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    most: int = MOST_KEYS


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered, in order.

    Attributes:
        truncated: there is more behind the last of them.
    """

    items: tuple[Listed, ...]
    truncated: bool


class Tree(ABC):
    """The models, versions and files that there are."""

    @abstractmethod
    async def models(self) -> Sequence[str]:
        """Return the names of all models, in any order."""

    @abstractmethod
    async def versions(self, model: str) -> Sequence[str]:
        """Return a model's versions, in any order; none where there is no such model."""

    @abstractmethod
    async def files(self, model: str, version: str) -> tuple[int, Sequence[File]]:
        """Return when a version was published, and its files; none where there is no such version."""


async def list_page(tree: Tree, query: ListingQuery) -> Page:
    """Make one page; errors are the tree's."""
    items: list[Listed] = []
    if query.most == 0:
        return Page((), truncated=False)
    async for item in _lines(tree, query):
        if len(items) == query.most:
            return Page(tuple(items), truncated=True)
        items.append(item)
    return Page(tuple(items), truncated=False)


async def _lines(tree: Tree, query: ListingQuery) -> AsyncIterator[Listed]:
    folded = ""
    async for item in _branches(tree, query):
        fold = _fold(query, item.name)
        if fold is None:
            if item.name > query.after:
                yield item
        elif fold != folded and fold > query.after:
            folded = fold
            yield Listed(fold)


async def _branches(tree: Tree, query: ListingQuery) -> AsyncIterator[Listed]:
    """Yield keys, and instead of those that fold the branch that they are on."""
    parts = query.prefix.split("/")
    # What the prefix names in full is not looked for in a list, which may not have it yet.
    models = ["/".join(parts[:2])] if len(parts) > 2 else await tree.models()
    for model in _wanted(query, "", models):
        if _fold(query, model) is not None:
            yield Listed(model)
            continue
        versions = [parts[2]] if len(parts) > 3 else await tree.versions(model[:-1])
        for version in _wanted(query, model, versions):
            if _fold(query, version) is not None:
                yield Listed(version)
                continue
            published_at, files = await tree.files(model[:-1], version[len(model) : -1])
            for item in _objects(query, version, published_at, files):
                yield item


def _wanted(query: ListingQuery, base: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the branches, in order, that may have keys of the page; each ends with a slash."""
    for branch in sorted(f"{base}{name}/" for name in names):
        fits = branch.startswith(query.prefix) or query.prefix.startswith(branch)
        if fits and (branch > query.after or query.after.startswith(branch)):
            yield branch


def _objects(query: ListingQuery, base: str, published_at: int, files: Iterable[File]) -> list[Listed]:
    found = []
    for file in files:
        key = base + file.path
        for representation in file.representations():
            name = base + representation.path
            # A twin is listed by its own name alone: else whoever copies a version gets all twice.
            if name.startswith(query.prefix) and (name == key or len(query.prefix) > len(key)):
                found.append(Listed(name, representation.size, representation.id, published_at))
    return sorted(found, key=lambda item: item.name)


def _fold(query: ListingQuery, name: str) -> str | None:
    if not query.delimiter or not name.startswith(query.prefix):
        return None
    end = name.find(query.delimiter, len(query.prefix))
    return None if end < 0 else name[: end + len(query.delimiter)]


def token(after: str) -> str:
    """Return a continuation token for what comes after a line."""
    return base64.urlsafe_b64encode(after.encode("utf-8")).decode("ascii")


def parse_token(text: str) -> str | None:
    """Return what ``token`` was given; None for what it never returned."""
    try:
        return base64.b64decode(text.encode("ascii"), b"-_", validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
