"""The application: every request's way from its raw target to an answer, a log line and the metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from aiohttp import web

from hotstart.wire.errors import HotstartError, IntegrityError
from hotstart_proxy.cache.answers import CacheState
from hotstart_proxy.cache.arrivals import Arrivals
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.hops import REQUEST_HOPS, Hops
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.stores.base import StoreError
from hotstart_proxy.telemetry.logs import log_event
from hotstart_proxy.telemetry.metrics import Metrics

from .admin import AdminApi
from .cdn import OriginSecrets
from .connections import ConnectionServer
from .exchanges import Exchange
from .facades import Facade, facade_for
from .file_answers import FileAnswers
from .health import HealthApi
from .native import NativeApi
from .problems import LoopDetected, Problem, problem_of
from .routes import Listener, Match, RouteName, find_route, split_target
from .sendfile import FileTooShort, ReaderStalled
from .tiers import TIER_HEADER, parse_tier
from .tokens import Rights, Tokens
from .turns import Turns

__all__ = ["App", "Handler", "handlers"]

Handler = Callable[[Exchange, Match], Awaitable[web.StreamResponse]]
_log = logging.getLogger("hotstart_proxy.requests")
_INTERNAL = Problem(500, "internal", "something went wrong in the proxy; its log says what")
# Asked every few seconds by machines; a log of them drowns the rest.
_PROBES = frozenset((RouteName.LIVE, RouteName.READY, RouteName.METRICS))
# What nginx logs for a client that went away before it had an answer; never sent.
_CLIENT_GONE = 499
_GONE = Problem(_CLIENT_GONE, "client", "the client went away")


def handlers(
    listener: Listener,
    cache: Cache,
    state: Callable[[], CacheState],
    arrivals: Arrivals,
    answers: FileAnswers,
    metrics: Metrics,
    is_draining: Callable[[], bool],
    scrape: Callable[[], Awaitable[bytes]],
) -> dict[RouteName, Handler]:
    """Return the handler of every route that a listener serves."""
    health = HealthApi(listener, state, is_draining, scrape)
    shared: dict[RouteName, Handler] = {
        RouteName.HOME: health.home,
        RouteName.LIVE: health.live,
        RouteName.READY: health.ready,
        RouteName.METRICS: health.metrics,
    }
    if listener is Listener.ADMIN:
        admin = AdminApi(cache, arrivals)
        return {
            **shared,
            RouteName.WARM: admin.warm,
            RouteName.PIN: admin.pin,
            RouteName.UNPIN: admin.unpin,
            RouteName.EVICT: admin.evict,
            RouteName.POLL: admin.poll,
            RouteName.GC: admin.gc,
            RouteName.VERIFY: admin.verify,
        }
    native = NativeApi(cache, answers, for_cdn=listener is Listener.CDN)
    return {
        **shared,
        RouteName.MODELS: native.models,
        RouteName.MODEL: native.model,
        RouteName.MANIFEST: native.manifest,
        RouteName.OPEN: native.open,
        RouteName.FILE: native.file,
    }


class App:
    """Serves one kind of listener."""

    def __init__(
        self,
        listener: Listener,
        routes: Mapping[RouteName, Handler],
        tokens: Tokens | None,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        name: str,
        facades: Sequence[Facade] = (),
        secrets: OriginSecrets | None = None,
    ) -> None:
        """Prepare; the server of connections is the caller's to run.

        Args:
            listener: the kind.
            routes: the handler of each route that it serves.
            tokens: that open it; None where none are needed.
            metrics: told of every request.
            is_draining: the end has begun.
            name: the proxy's, as ``Via`` says it.
            facades: that take the paths which are theirs; the first that fits counts.
            secrets: that open it instead of tokens; None where none are needed.
        """
        self._facades = facades
        self._name = name
        self._listener = listener
        self._handlers = routes
        self._tokens = tokens
        self._secrets = secrets
        self._metrics = metrics
        self._is_draining = is_draining
        self._turns = Turns()
        self.server = ConnectionServer(self._handle, self._malformed)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, self._turns)
        connection = exchange.connection
        self._metrics.request_started()
        try:
            response = await self._answer(exchange)
            if self._is_draining() or (connection.half_closed and not connection.more_requests):
                response.force_close()
            return response
        except asyncio.CancelledError:
            exchange.fault = exchange.fault or f"{_GONE.code}: {_GONE.detail}"
            exchange.status = exchange.status or _CLIENT_GONE
            if exchange.headers_sent:
                self._metrics.answer_cut("draining" if self._is_draining() else _GONE.code)
            raise
        finally:
            connection.answered += 1
            self._record(exchange)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._dispatch(exchange)
        except HotstartError as error:
            return self._failed(exchange, problem_of(error), _cut_reason(error))
        except Exception as error:  # noqa: BLE001  the boundary: one request's bug is not the process's end
            if isinstance(error, ConnectionError) and exchange.headers_sent:
                return self._failed(exchange, _GONE, "client")
            _log.exception("a request failed")
            return self._failed(exchange, _INTERNAL, "internal")

    async def _dispatch(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        path, query = split_target(request.raw_path)
        facade = facade_for(self._facades, path)
        if facade is not None:
            return await self._dispatch_facade(exchange, facade, path, query)
        match = find_route(self._listener, request.method, request.raw_path)
        exchange.route = match.route.name
        may_be_premium = exchange.connection.is_unix
        if match.route.needs_token:
            may_be_premium |= self._admit(request).premium
        if match.reference is not None:
            self._set_tier(exchange, may_be_premium=may_be_premium)
        self._note_hops(request)
        return await self._handlers[match.route.name](exchange, match)

    def _admit(self, request: web.BaseRequest) -> Rights:
        if self._secrets is not None:
            return self._secrets.admit(request)
        return Rights() if self._tokens is None else self._tokens.check(request.headers.get("Authorization"))

    async def _dispatch_facade(
        self, exchange: Exchange, facade: Facade, path: str, query: str
    ) -> web.StreamResponse:
        request = exchange.request
        exchange.form = partial(facade.form, request)
        action = facade.find(request, path[len(facade.prefix) :], query)
        exchange.route = action.route
        rights = facade.admit(request, self._tokens)
        if action.has_tier:
            self._set_tier(exchange, may_be_premium=rights.premium or exchange.connection.is_unix)
        self._note_hops(request)
        return await action.answer(exchange)

    def _set_tier(self, exchange: Exchange, *, may_be_premium: bool) -> None:
        header = exchange.headers().get(TIER_HEADER.lower())
        tier = parse_tier(header)
        if tier is Tier.PREMIUM and not may_be_premium:
            tier = Tier.STANDARD
            self._metrics.premium_refused()
        exchange.tier, exchange.names_tier = tier, header is not None

    def _note_hops(self, request: web.BaseRequest) -> None:
        via = request.headers.getall("Via", ())
        if not via:
            # As in the context that every request's task begins with.
            return
        hops = Hops.parse(", ".join(via))
        if not hops.admits(self._name):
            raise LoopDetected(hops.names)
        REQUEST_HOPS.set(hops)

    def _failed(self, exchange: Exchange, problem: Problem, reason: str) -> web.StreamResponse:
        started = exchange.response
        if started is not None and exchange.headers_sent:
            # The status has gone out as success: only a body that ends short tells the client otherwise.
            exchange.fault = f"{problem.code}: {problem.detail}"
            self._metrics.answer_cut(reason)
            exchange.connection.cut()
            started.force_close()
            return started
        return exchange.respond_problem(problem)

    def _record(self, exchange: Exchange) -> None:
        self._metrics.request_ended(exchange.route, exchange.status, exchange.source)
        tier = exchange.tier.name.lower()
        if exchange.first_byte_seconds is not None and exchange.source is not None:
            self._metrics.first_byte(exchange.source, tier, exchange.first_byte_seconds)
        if exchange.queue_seconds is not None:
            self._metrics.queue_waited(tier, exchange.queue_seconds)
        request = exchange.request
        level = logging.DEBUG if exchange.route in _PROBES and exchange.status == 200 else logging.INFO
        if not _log.isEnabledFor(level):
            return
        self._log_request(
            request,
            {
                "method": request.method,
                "path": split_target(request.raw_path)[0],
                "status": exchange.status,
                "bytes": exchange.sent_bytes,
                "milliseconds": _milliseconds(exchange.seconds()),
                "first_byte_milliseconds": _milliseconds(exchange.first_byte_seconds),
                "queue_milliseconds": _milliseconds(exchange.queue_seconds),
                "route": exchange.route,
                "tier": None if exchange.model is None else tier,
                "source": exchange.source,
                "model": exchange.model,
                "version": exchange.version,
                "range": None if exchange.wanted is None else exchange.wanted.header(),
                "fault": exchange.fault,
            },
            level,
        )

    def _malformed(self, request: web.BaseRequest, problem: Problem) -> None:
        # aiohttp answers this by itself, so it has no exchange.
        self._metrics.request_started()
        self._metrics.request_ended("none", problem.status, None)
        self._log_request(request, {"status": problem.status, "fault": f"{problem.code}: {problem.detail}"})

    def _log_request(
        self, request: web.BaseRequest, fields: dict[str, object], level: int = logging.INFO
    ) -> None:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        client = peer[0] if isinstance(peer, tuple) else None
        log_event(_log, level, "request", {"listener": self._listener, "client": client, **fields})


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _cut_reason(error: HotstartError) -> str:
    if isinstance(error, ReaderStalled):
        return "stalled"
    if isinstance(error, OriginError):
        return "origin"
    if isinstance(error, StoreError | FileTooShort):
        return "store"
    if isinstance(error, IntegrityError):
        return "damaged"
    return "internal"
