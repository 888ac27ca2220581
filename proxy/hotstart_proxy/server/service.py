"""One proxy from start to end: opens origin, store and cache, listens, and drains."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType

from hotstart._version import __version__
from hotstart_proxy.cache.answers import CacheState
from hotstart_proxy.cache.arrivals import Arrivals
from hotstart_proxy.cache.awaited import Awaited
from hotstart_proxy.core.hops import Hops
from hotstart_proxy.telemetry.logs import log_event
from hotstart_proxy.telemetry.metrics import Metrics, Reading, StoreReading

from .addresses import BACKLOG, BoundSocket, UnixAddress
from .app import App, handlers
from .cdn import OriginSecrets
from .composition import Level, announcements, compose, news_sources
from .connections import Connection
from .facades import Facade
from .file_answers import AnswerOptions, FileAnswers
from .hub.facade import HubFacade
from .listeners import Listeners, bind_listeners
from .routes import Listener
from .s3.facade import S3Facade
from .s3.key_file import S3Keys
from .settings import Settings
from .tokens import Tokens

__all__ = ["Service", "made_up_name"]

_log = logging.getLogger("hotstart_proxy.service")
# How often a drain looks whether the last transfer is over.
_DRAIN_POLL_SECONDS = 0.02


def made_up_name() -> str:
    """Return a name for a proxy that no other has."""
    return Hops.name_of(secrets.token_hex(6))


class Service:
    """A proxy. An async context manager: inside, it serves; at the end everything is closed.

    Attributes:
        metrics: of this process.
        draining: the end has begun: not ready, no new connections.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners | None = None,
        scrape: Callable[[], Awaitable[bytes]] | None = None,
        name: str | None = None,
        *,
        polls: bool = True,
        began: float | None = None,
    ) -> None:
        """Put a proxy together; nothing is opened before it is entered.

        Args:
            settings: see there.
            listeners: bound by somebody else, who removes their files; None to bind them here.
            scrape: gives what ``/metrics`` answers; None for the metrics of this process.
            name: by which chains of proxies tell this one from others, all its workers together; None to make
                one up.
            polls: this process asks for new versions, and hears of them; one of several workers is enough.
            began: when the proxy did, by ``time.monotonic``, from which readiness waits no longer than
                ``ready_within``; None for now.
        """
        self._settings = settings
        self._scrape = scrape or self._scrape_own
        self._name = name or made_up_name()
        self._polls = polls
        self._began = time.monotonic() if began is None else began
        self._stack = AsyncExitStack()
        self._listeners = listeners
        self._client_servers: list[asyncio.AbstractServer] = []
        self._admin_server: asyncio.AbstractServer | None = None
        self._apps: dict[Listener, App] = {}
        self.metrics = Metrics(__version__)
        self.draining = False

    @property
    def listeners(self) -> Listeners:
        """What it listens on, once it serves."""
        assert self._listeners is not None
        return self._listeners

    async def __aenter__(self) -> Service:
        """Open everything and begin to serve.

        Raises:
            HotstartError: it cannot; all that had been opened is closed again.
        """
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _start(self) -> None:
        settings = self._settings
        tokens = Tokens(settings.token_file) if settings.token_file is not None else None
        secrets = OriginSecrets(settings.cdn_secret_file) if settings.cdn_secret_file is not None else None
        metrics = self.metrics
        levels = await compose(self._stack, settings, self._name, metrics)
        cache = levels[0].cache
        awaited = await self._stack.enter_async_context(
            Awaited(
                cache,
                settings.ready_when,
                settings.ready_within,
                settings.alias_ttl,
                metrics,
                waited_seconds=time.monotonic() - self._began,
            )
        )
        channel = announcements(settings)
        if channel is not None:
            self._stack.push_async_callback(channel.close)
        arrivals = await self._stack.enter_async_context(
            Arrivals(
                cache,
                [level.store for level in levels],
                settings.alias_ttl,
                metrics,
                polls=self._polls,
                named=awaited.models,
                sources=news_sources(settings) if self._polls else (),
                announcements=channel,
            )
        )
        metrics.watch_stores(lambda: self._reading(levels, awaited.state()))
        metrics.watch_load(cache.load)
        options = AnswerOptions(
            tokens is not None, settings.alias_ttl, settings.presign_expiry, settings.batch_requests
        )
        answers = FileAnswers(cache, options)
        keys = S3Keys(settings.s3_keys) if settings.s3_keys is not None else None
        s3 = partial(S3Facade, cache, answers, settings.s3_bucket, keys)
        facades: dict[Listener, Sequence[Facade]] = {
            Listener.DATA: (HubFacade(cache, answers), s3("/s3")),
            Listener.S3: (s3(""),),
        }
        for listener in Listener:
            routes = handlers(
                listener, cache, awaited.state, arrivals, answers, metrics, self._is_draining, self._scrape
            )
            self._apps[listener] = App(
                listener,
                routes,
                None if listener is Listener.ADMIN else tokens,
                metrics,
                self._is_draining,
                self._name,
                facades.get(listener, ()),
                secrets if listener is Listener.CDN else None,
            )
        if self._listeners is None:
            self._listeners = bind_listeners(settings)
        for listener, sockets in self._listeners.clients.items():
            for bound in sockets:
                self._client_servers.append(await self._serve(bound, self._apps[listener]))
        if self._listeners.admin is not None:
            self._admin_server = await self._serve(self._listeners.admin, self._apps[Listener.ADMIN])

    async def _serve(self, bound: BoundSocket, app: App) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        if isinstance(bound.address, UnixAddress):
            return await loop.create_unix_server(app.server, sock=bound.socket, backlog=BACKLOG)
        return await loop.create_server(app.server, sock=bound.socket, backlog=BACKLOG)

    async def _scrape_own(self) -> bytes:
        return self.metrics.scrape()

    def _is_draining(self) -> bool:
        return self.draining

    def _reading(self, levels: Sequence[Level], state: CacheState) -> Reading:
        stores = [_store_reading(level) for level in levels]
        return Reading(state.can_serve and not state.warming and not self.draining, tuple(stores))

    async def drain(self) -> bool:
        """Stop accepting, let running transfers end within the grace period, and cut what is left.

        The admin listener goes on, so that readiness can be seen to be false.

        Returns:
            Whether all transfers ended by themselves.
        """
        self.draining = True
        for server in self._client_servers:
            server.close()
        self.listeners.remove_client_files()
        # One turn for connections that were accepted but whose requests are not read yet.
        await asyncio.sleep(0)
        for connection in self._client_connections():
            if connection.busy:
                connection.close()
            else:
                # An idle one is ended now: what a client sent on it would never be read.
                connection.force_close()
        log_event(_log, logging.INFO, "draining", {"transfers": len(self._busy())})
        deadline = asyncio.get_running_loop().time() + self._settings.grace_period
        while (left := self._busy()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            # Polled: a connection stops being busy in more ways than there are places to say so.
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        if left:
            log_event(_log, logging.WARNING, "the grace period is over", {"transfers_cut": len(left)})
        for connection in left:
            connection.cut()
        return not left

    def _client_connections(self) -> list[Connection]:
        return [
            connection
            for listener, app in self._apps.items()
            if listener is not Listener.ADMIN
            for connection in app.server.open_connections()
        ]

    def _busy(self) -> list[Connection]:
        return [item for item in self._client_connections() if item.busy]

    def close_admin(self) -> None:
        """Stop listening for administrative requests and probes; idempotent."""
        if self._admin_server is not None:
            self._admin_server.close()

    def remove_socket_files(self) -> None:
        """Remove the files of all Unix sockets that are still this process's own; idempotent."""
        if self._listeners is not None:
            self._listeners.remove_files()

    async def _close(self) -> None:
        for server in self._client_servers:
            server.close()
        self.close_admin()
        if self._listeners is not None:
            self._listeners.close()
        for app in self._apps.values():
            for connection in app.server.open_connections():
                if connection.busy:
                    connection.cut()
            await app.server.shutdown(timeout=1)
        await self._stack.aclose()


def _store_reading(level: Level) -> StoreReading:
    usage, cache = level.cache.usage(), level.cache
    return StoreReading(
        store=level.name,
        used_bytes=usage.used_bytes,
        budget_bytes=usage.budget_bytes,
        blobs=usage.blobs,
        versions=cache.versions_held(),
        is_up=cache.store_is_up,
    )
