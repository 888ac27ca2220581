"""The native API: models, manifests, opening, and the bytes of files."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import parse_qs

from aiohttp import web

from hotstart.wire import documents
from hotstart.wire.digests import etag, sha256_id
from hotstart.wire.errors import HotstartError
from hotstart.wire.manifest import Representation
from hotstart.wire.opening import Opening
from hotstart.wire.references import Reference
from hotstart_proxy.cache.answers import Resolved
from hotstart_proxy.cache.cache import Cache

from .conditions import max_age
from .exchanges import Exchange
from .file_answers import FileAnswers, is_immutable
from .held import describe_stores, respond_stores, wants_stores
from .problems import InvalidQuery
from .routes import Match
from .selection import AnswerPlan, Selected, plan_answer

__all__ = ["NativeApi"]

_JSON = "application/json"
_EXPIRES_IN_BOUNDS = (60, 7 * 86400)
# However many ask for something fresher: the origin is asked once a second at most for each model.
_LEAST_MAX_AGE_SECONDS = 1.0


class NativeApi:
    """Handlers of the routes under /v1 on the data listeners, and of those that a CDN is given."""

    def __init__(self, cache: Cache, answers: FileAnswers, *, for_cdn: bool = False) -> None:
        """Prepare.

        Args:
            cache: what is served.
            answers: sends files.
            for_cdn: answers are for any cache to keep, and never a redirect, which a CDN does not follow but
                may hand on, or keep beyond its life.
        """
        self._for_cdn = for_cdn
        self._cache = cache
        self._answers = answers
        self._options = answers.options

    async def models(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """List the models."""
        with exchange.timed("list"):
            models = await self._cache.models(self._max_age_asked(exchange))
        members: dict[str, object] = {"models": list(models)}
        if wants_stores(match.query):
            return respond_stores(exchange, {**members, "stores": describe_stores(self._cache.stores())})
        return self._respond_document(exchange, documents.dump_json(members))

    async def model(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Describe one model: its index, and what is kept and cached of it."""
        model = _reference(match).model
        exchange.model = model
        with exchange.timed("index"):
            index = await self._cache.index(model, self._max_age_asked(exchange))
        kept = self._cache.kept_versions(model)
        members = {
            **json.loads(index.dump(every_manifest_id=True)),
            "default": index.resolve(None),
            "latest": index.latest(),
            "kept": list(kept),
            "cached": {version: held for version in kept if (held := await self._held(model, version))},
        }
        if wants_stores(match.query):
            members["pinned"] = sorted(self._cache.pinned_versions(model))
            stores = describe_stores(self._cache.stores(), model)
            return respond_stores(exchange, {**members, "stores": stores})
        return self._respond_document(exchange, documents.dump_json(members))

    def _max_age_asked(self, exchange: Exchange) -> float | None:
        """Return how old an answer may be by the request's Cache-Control, within what the origin can bear."""
        asked = max_age(exchange.headers().get("cache-control", ""))
        if asked is None or asked >= self._options.alias_ttl_seconds:
            return None
        return max(float(asked), _LEAST_MAX_AGE_SECONDS)

    async def _held(self, model: str, version: str) -> dict[str, int]:
        try:
            return self._cache.cached(await self._cache.resolve(Reference(model, version)))
        except HotstartError:
            # Its manifest is not to be had or understood now, so nobody could use what is here of it.
            return {}

    async def manifest(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Give a version's manifest, the origin's exact bytes."""
        resolved = await self._answers.resolve(exchange, _reference(match))
        data = resolved.manifest_bytes
        pinned = Reference(resolved.manifest.model, resolved.manifest.version)
        selected = self._selected(resolved, pinned, len(data), resolved.manifest_id)
        return self._respond_bytes(exchange, selected, data)

    async def open(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Give all that a client needs to load a version, in one round trip."""
        expires_in_seconds = _expires_in(match.query, self._options.presign_seconds)
        resolved = await self._answers.resolve(exchange, _reference(match))
        with exchange.timed("presign"):
            fallback = await self._cache.fallback(resolved, expires_in_seconds)
        opening = Opening(
            resolved.manifest, resolved.manifest_bytes, fallback, self._cache.cached(resolved)
        ).dump()
        headers = {"Content-Type": _JSON, "Cache-Control": "no-store", "Content-Length": str(len(opening))}
        if exchange.request.method == "HEAD":
            return exchange.respond_head(200, headers)
        return exchange.respond(200, headers, opening)

    async def file(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Give the bytes of a file or twin."""
        reference = _reference(match)
        assert reference.file is not None
        resolved = await self._answers.resolve(exchange, reference)
        representation = resolved.manifest.representation(reference.file)
        # The cache has found the file already, or said that there is none.
        assert representation is not None
        plan = plan_answer(
            exchange.request.method, exchange.headers(), self._selected_file(resolved, representation)
        )
        if self._for_cdn:
            plan = replace(plan, may_redirect=False)
        return await self._answers.respond(exchange, resolved, representation, plan)

    def _selected_file(self, resolved: Resolved, representation: Representation) -> Selected:
        return self._selected(
            resolved,
            Reference(resolved.manifest.model, resolved.manifest.version, representation.path),
            representation.size,
            representation.id,
            media_type=representation.media_type,
            sha256=representation.sha256,
        )

    def _selected(
        self,
        resolved: Resolved,
        pinned: Reference,
        size: int,
        content_id: str,
        *,
        media_type: str = _JSON,
        sha256: str | None = None,
    ) -> Selected:
        immutable = is_immutable(resolved)
        return Selected(
            size=size,
            etag=etag(content_id),
            media_type=media_type,
            cache_control=self._answers.cache_control(immutable=immutable, for_cdn=self._for_cdn),
            last_modified=resolved.published_at // 1000,
            dates_identify=immutable,
            content_location=f"/v1/models/{pinned.url_path()}" if resolved.by_alias else None,
            sha256=content_id if pinned.file is None else sha256,
        )

    def _respond_document(self, exchange: Exchange, data: bytes) -> web.StreamResponse:
        selected = Selected(
            size=len(data),
            etag=etag(sha256_id(data)),
            media_type=_JSON,
            cache_control=self._answers.cache_control(immutable=False),
        )
        return self._respond_bytes(exchange, selected, data)

    def _respond_bytes(self, exchange: Exchange, selected: Selected, data: bytes) -> web.StreamResponse:
        plan: AnswerPlan = plan_answer(exchange.request.method, exchange.headers(), selected)
        if plan.wanted is None:
            return exchange.respond_head(plan.status, plan.headers)
        return exchange.respond(plan.status, plan.headers, data[plan.wanted.start : plan.wanted.stop])


def _reference(match: Match) -> Reference:
    assert match.reference is not None
    return match.reference


def _expires_in(query: str, default: int) -> int:
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=16).get("expires_in")
    except ValueError as error:
        raise InvalidQuery("expires_in", "too many parameters") from error
    if values is None:
        return default
    low, high = _EXPIRES_IN_BOUNDS
    text = values[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidQuery("expires_in", f"expected whole seconds from {low} to {high}")
    return int(text)
