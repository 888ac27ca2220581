"""The bytes of files, the same way through every door: resolve once, plan, let in by tier, read, send.

The native API and the facades choose what an answer's headers say and whether it may be a redirect; all
else is here, so that no door has rules of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from hotstart.wire.manifest import Representation
from hotstart.wire.references import Reference
from hotstart_proxy.cache.answers import Redirect, Resolved
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.tiers import Tier

from .exchanges import REDIRECT, Exchange
from .selection import AnswerPlan
from .tiers import BatchLimit

__all__ = ["IMMUTABLE", "AnswerOptions", "FileAnswers", "is_immutable"]

IMMUTABLE = "max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What answers need to know of the settings.

    Attributes:
        needs_token: answers are for one client alone (``private``).
        alias_ttl_seconds: max-age of what may change.
        presign_seconds: life of the URLs in an opening that asks for no other.
        batch_requests: of tier batch that are sent bytes at a time.
    """

    needs_token: bool
    alias_ttl_seconds: float
    presign_seconds: int
    batch_requests: int


def is_immutable(resolved: Resolved) -> bool:
    """Tell whether what was asked for can never mean other bytes.

    An adopted version is whatever lies in its folder; only what was published can never change.
    """
    return not resolved.by_alias and all(file.sha256 is not None for file in resolved.manifest.files)


class FileAnswers:
    """One for all doors of a proxy, so that all of them together let in no more batch than may be."""

    def __init__(self, cache: Cache, options: AnswerOptions) -> None:
        self.options = options
        self._cache = cache
        self._batch = BatchLimit(options.batch_requests)

    async def resolve(self, exchange: Exchange, reference: Reference) -> Resolved:
        """Resolve what is asked for, once, and note it in the exchange (errors as ``Cache.resolve``)."""
        with exchange.timed("resolve"):
            resolved = await self._cache.resolve(reference)
        exchange.model, exchange.version = resolved.manifest.model, resolved.manifest.version
        return resolved

    def cache_control(self, *, immutable: bool, private: bool = False, for_cdn: bool = False) -> str:
        """Return Cache-Control of what can never change, or of what may.

        Args:
            immutable: it cannot.
            private: the door asks for more than tokens, so that the answer is for one client alone.
            for_cdn: who asks is to keep it for others, and decides itself who those are.
        """
        age = IMMUTABLE if immutable else f"max-age={int(self.options.alias_ttl_seconds)}"
        alone = private or (self.options.needs_token and not for_cdn)
        return f"{'private' if alone else 'public'}, {age}"

    async def respond(
        self,
        exchange: Exchange,
        resolved: Resolved,
        representation: Representation,
        plan: AnswerPlan,
        redirect_headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Answer with what was planned, or by a redirect where the plan allows it.

        Args:
            exchange: to be answered.
            resolved: the version.
            representation: of it, that the plan is for.
            plan: from ``plan_answer``, its headers and ``may_redirect`` as the door wants them.
            redirect_headers: what a redirect says besides.

        Raises:
            BatchFull: of a request of tier batch that cannot be redirected.
            OriginError, StoreError, IntegrityError, ConnectionError, ReaderStalled, FileTooShort: as
                ``Exchange.send``.
        """
        exchange.wanted = plan.wanted
        if plan.wanted is None or not len(plan.wanted):
            return exchange.respond_head(plan.status, plan.headers)
        if exchange.tier is not Tier.BATCH:
            return await self._send(exchange, resolved, representation, plan, redirect_headers)
        if self._batch.full and plan.may_redirect:
            with exchange.timed("presign"):
                redirect = await self._cache.redirect(resolved, representation, plan.wanted, exchange.tier)
            if redirect is not None:
                return _redirect(exchange, redirect, redirect_headers)
        with self._batch.inside():
            return await self._send(exchange, resolved, representation, plan, redirect_headers)

    async def _send(
        self,
        exchange: Exchange,
        resolved: Resolved,
        representation: Representation,
        plan: AnswerPlan,
        redirect_headers: Mapping[str, str] | None,
    ) -> web.StreamResponse:
        assert plan.wanted is not None
        with exchange.timed("read"):
            answer = await self._cache.read(
                resolved, representation, plan.wanted, may_redirect=plan.may_redirect, tier=exchange.tier
            )
        if isinstance(answer, Redirect):
            return _redirect(exchange, answer, redirect_headers)
        return await exchange.send(plan.status, plan.headers, answer)


def _redirect(
    exchange: Exchange, redirect: Redirect, headers: Mapping[str, str] | None
) -> web.StreamResponse:
    exchange.source = REDIRECT
    return exchange.respond(
        307,
        {
            **(headers or {}),
            "Location": redirect.url,
            "Cache-Control": "no-store",
            "Cache-Status": "hotstart; fwd=miss; detail=redirect",
        },
    )
