"""The administrative API, on a listener of its own: warm, pin, evict, collect garbage, verify."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from hotstart.wire import documents
from hotstart_proxy.cache.answers import Resolved
from hotstart_proxy.cache.arrivals import Arrivals
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.polling import Learned

from .exchanges import Exchange
from .routes import Match

__all__ = ["AdminApi"]


class AdminApi:
    """Handlers of the POST routes."""

    def __init__(self, cache: Cache, arrivals: Arrivals) -> None:
        self._cache = cache
        self._arrivals = arrivals

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

    async def pin(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Keep a version whatever retention and the budget say."""
        resolved = await self._cache.pin(await self._resolve(exchange, match))
        members = {"bytes": self._cache.kept_bytes(resolved), "cached": self._cache.cached(resolved)}
        return _respond(exchange, resolved, members)

    async def unpin(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Let a version go the way of others."""
        model, version = await self._pinned(exchange, match)
        was_pinned = await self._cache.unpin(model, version)
        return _respond_members(exchange, {"model": model, "version": version, "was_pinned": was_pinned})

    async def _pinned(self, exchange: Exchange, match: Match) -> tuple[str, str]:
        """Return which version to unpin; one that is unpublished by now can be named all the same."""
        reference = match.reference
        assert reference is not None
        if reference.selector in self._cache.pinned_versions(reference.model):
            return reference.model, reference.selector
        resolved = await self._resolve(exchange, match)
        return resolved.manifest.model, resolved.manifest.version

    async def poll(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Look for new versions of a model soon; answers at once, and they are filled in the background."""
        assert match.reference is not None
        model = match.reference.model
        followed = await self._arrivals.hint(model, Learned.NOTIFY)
        if followed:
            exchange.model = model
        return _respond_members(exchange, {"model": model, "followed": followed}, 202)

    async def gc(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Remove the blobs of all versions that are not kept."""
        return _respond_members(exchange, {"freed_bytes": await self._cache.gc()})

    async def verify(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Compare all that is held with its digests; what is damaged is fetched again in the background."""
        found = await self._cache.verify()
        members = {
            "checked_blobs": found.checked_blobs,
            "checked_bytes": found.checked_bytes,
            "checked_documents": found.checked_documents,
            "unknown_blobs": found.unknown_blobs,
            "damaged": [
                {
                    "store": damage.store,
                    "name": damage.name,
                    "reference": damage.reference,
                    "bytes": damage.size,
                    "problem": damage.problem,
                    "refill": damage.refill,
                }
                for damage in found.damaged
            ],
            "failed": [{"problem": reason} for reason in found.failed],
        }
        return _respond_members(exchange, members)

    async def _resolve(self, exchange: Exchange, match: Match) -> Resolved:
        assert match.reference is not None
        resolved = await self._cache.resolve(match.reference)
        exchange.model, exchange.version = resolved.manifest.model, resolved.manifest.version
        return resolved


def _respond(exchange: Exchange, resolved: Resolved, members: Mapping[str, object]) -> web.StreamResponse:
    manifest = resolved.manifest
    return _respond_members(exchange, {"model": manifest.model, "version": manifest.version, **members})


def _respond_members(
    exchange: Exchange, members: Mapping[str, object], status: int = 200
) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return exchange.respond(status, headers, documents.dump_json(members))
