"""What is asked about the proxy itself: liveness, readiness, metrics, and a page that says what is here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hotstart._version import __version__
from hotstart.wire import documents
from hotstart_proxy.cache.answers import CacheState
from hotstart_proxy.telemetry.metrics import METRICS_MEDIA_TYPE

from .exchanges import Exchange
from .routes import ROUTES, Listener, Match

__all__ = ["HealthApi"]


class HealthApi:
    """Handlers of ``/``, ``/healthz/…`` and ``/metrics``."""

    def __init__(
        self,
        listener: Listener,
        state: Callable[[], CacheState],
        is_draining: Callable[[], bool],
        scrape: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._listener = listener
        self._state = state
        self._is_draining = is_draining
        self._scrape = scrape

    async def home(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Name the routes of this listener."""
        lines = [
            f"{', '.join(route.methods):<10} {route.pattern:<45} {route.summary}"
            for route in ROUTES
            if self._listener in route.listeners
        ]
        text = "\n".join([f"hotstart {__version__}", "", *lines, ""])
        return _respond(exchange, 200, "text/plain; charset=utf-8", text.encode())

    async def live(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Say that the process answers. Looks at nothing, or one outage would restart every proxy."""
        return _respond(exchange, 200, "application/json", documents.dump_json({"status": "live"}))

    async def ready(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Say whether clients should be sent here."""
        state = self._state()
        if self._is_draining():
            status, word = 503, "draining"
        elif not state.can_serve:
            status, word = 503, "unavailable"
        elif state.warming:
            status, word = 503, "warming"
        else:
            status, word = 200, "degraded" if state.degraded else "ready"
        members: dict[str, object] = {"status": word, "degraded": list(state.degraded)}
        if state.warming:
            members["warming"] = list(state.warming)
        body = documents.dump_json(members)
        return _respond(exchange, status, "application/json", body)

    async def metrics(self, exchange: Exchange, match: Match) -> web.StreamResponse:
        """Give all metrics."""
        return _respond(exchange, 200, METRICS_MEDIA_TYPE, await self._scrape())


def _respond(exchange: Exchange, status: int, media_type: str, body: bytes) -> web.StreamResponse:
    headers = {"Content-Type": media_type, "Cache-Control": "no-store", "Content-Length": str(len(body))}
    if exchange.request.method == "HEAD":
        return exchange.respond_head(status, headers)
    return exchange.respond(status, headers, body)
