"""The administrative API, on a listener of its own: warm, evict, collect garbage."""

from __future__ import annotations

from aiohttp import web

from hotstart.wire import documents
from hotstart_proxy.cache.answers import Resolved
from hotstart_proxy.cache.cache import Cache

from .exchanges import Exchange
from .routes import Match

__all__ = ["AdminApi"]


class AdminApi:
    """Handlers of the POST routes."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def warm(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Fill the store with a version; answers when all of it is there."""
        resolved = await self._resolve(exchange, match)
        with exchange.timed("warm"):
            await self._cache.warm(resolved)
        return _respond(exchange, resolved, {"cached": self._cache.cached(resolved)})

    async def evict(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Remove a version's blobs; those that are being read stay."""
        resolved = await self._resolve(exchange, match)
        return _respond(exchange, resolved, {"freed_bytes": await self._cache.evict(resolved)})

    async def gc(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Remove the blobs of all versions that are not kept."""
        return _respond(exchange, None, {"freed_bytes": await self._cache.gc()})

    async def _resolve(self, exchange: Exchange, match: Match) -> Resolved:
        assert match.reference is not None
        resolved = await self._cache.resolve(match.reference)
        exchange.model, exchange.version = resolved.manifest.model, resolved.manifest.version
        return resolved


def _respond(exchange: Exchange, resolved: Resolved | None, members: dict[str, object]) -> web.StreamResponse:
    head: dict[str, object] = (
        {} if resolved is None else {"model": resolved.manifest.model, "version": resolved.manifest.version}
    )
    body = documents.dump_json({**head, **members})
    return exchange.respond(200, {"Content-Type": "application/json", "Cache-Control": "no-store"}, body)
