"""The 40 hex digits that stand for a version, and the way back from them.

An id is made of the very manifest, so that it never means other files: of a version that was withdrawn and
published again, or of an adopted folder that has changed, the old id is not found any more. Every proxy makes
the same ids of the same origin.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from functools import lru_cache

from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.references import Reference
from hotstart_proxy.cache.answers import NotFound, Resolved
from hotstart_proxy.cache.cache import Cache

__all__ = ["Commits", "commit_id", "commit_of", "object_id"]

# An id that is not known may be of a version that was published a moment ago.
_UNKNOWN_MAX_AGE_SECONDS = 1.0
_MOST_LEARNED = 16_384


def object_id(*parts: str) -> str:
    """Return 40 hex digits in the manner of git, made of what they stand for."""
    return hashlib.sha256("\0".join(("hotstart-hub-1", *parts)).encode("utf-8")).hexdigest()[:40]


@lru_cache(maxsize=1024)
def commit_id(model: str, version: str, manifest_id: str) -> str:
    """Return the id that stands for a version with this manifest."""
    return object_id("commit", model, version, manifest_id)


def commit_of(resolved: Resolved) -> str:
    """Return the id that stands for a resolved version."""
    return commit_id(resolved.manifest.model, resolved.manifest.version, resolved.manifest_id)


class Commits:
    """Finds versions by their ids."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # By model, version and its time, the ids that took a manifest to find; the oldest are dropped.
        self._learned: dict[tuple[str, str, int], str] = {}

    async def version(self, model: str, commit: str) -> str:
        """Return the version of a model that an id stands for.

        Args:
            model: two segments.
            commit: 40 hex digits in lower case.

        Raises:
            NotFound: there is no such model, or no such version of it.
            OriginError, FormatError: it is not known and the origin did not say.
        """
        index = await self._cache.index(model)
        found = self._look(index, commit)
        if found is None:
            index = await self._cache.index(model, _UNKNOWN_MAX_AGE_SECONDS)
            found = self._look(index, commit) or await self._learn(index, commit)
        if found is None:
            # The client may know it from another proxy, which asked the origin less than that second ago.
            await asyncio.sleep(_UNKNOWN_MAX_AGE_SECONDS)
            index = await self._cache.index(model, _UNKNOWN_MAX_AGE_SECONDS)
            found = self._look(index, commit) or await self._learn(index, commit)
        if found is None:
            raise NotFound("version", f"{model}@{commit}")
        return found

    def _look(self, index: Index, commit: str) -> str | None:
        for entry in reversed(index.versions):
            known = entry.manifest_id
            if known is not None and commit_id(index.model, entry.version, known) == commit:
                return entry.version
            if known is None and self._learned.get(_key(index, entry)) == commit:
                return entry.version
        return None

    async def _learn(self, index: Index, commit: str) -> str | None:
        """Ask for the manifests of versions so old that the index does not say their ids, newest first."""
        for entry in self._unknown(index):
            try:
                resolved = await self._cache.resolve(Reference(index.model, entry.version), for_reader=False)
            except (NotFound, FormatError):
                # It has gone meanwhile, or nobody can read it.
                continue
            while len(self._learned) >= _MOST_LEARNED:
                del self._learned[next(iter(self._learned))]
            self._learned[_key(index, entry)] = commit_of(resolved)
            if commit_of(resolved) == commit:
                return entry.version
        return None

    def _unknown(self, index: Index) -> Iterable[IndexEntry]:
        return [
            entry
            for entry in reversed(index.versions)
            if entry.manifest_id is None and _key(index, entry) not in self._learned
        ]


def _key(index: Index, entry: IndexEntry) -> tuple[str, str, int]:
    return index.model, entry.version, entry.published_at
