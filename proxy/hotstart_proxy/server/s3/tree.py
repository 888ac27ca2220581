"""The tree that listings go through, as the cache knows it."""

from __future__ import annotations

from collections.abc import Sequence

from hotstart.wire.errors import InvalidReference
from hotstart.wire.manifest import File
from hotstart.wire.references import Reference, check_model, check_version
from hotstart_proxy.cache.answers import NotFound
from hotstart_proxy.cache.cache import Cache

from .listings import Tree

__all__ = ["CachedTree"]


class CachedTree(Tree):
    """What there is at the origin; errors but absence are those of the cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def models(self) -> Sequence[str]:
        """Return all models."""
        return await self._cache.models()

    async def versions(self, model: str) -> Sequence[str]:
        """Return a model's versions."""
        try:
            index = await self._cache.index(check_model(model))
        except (InvalidReference, NotFound):
            return ()
        return [entry.version for entry in index.versions]

    async def files(self, model: str, version: str) -> tuple[int, Sequence[File]]:
        """Return a version's time and files; an alias is no version and has none."""
        try:
            reference = Reference(check_model(model), check_version(version))
            # Whoever lists everything is no sign that each model is in use.
            resolved = await self._cache.resolve(reference, for_reader=False)
        except (InvalidReference, NotFound):
            return 0, ()
        return (0, ()) if resolved.by_alias else (resolved.published_at, resolved.manifest.files)
