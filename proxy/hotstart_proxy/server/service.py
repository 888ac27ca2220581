"""One proxy from start to end: opens origin, store and cache, listens, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

from hotstart._version import __version__
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.core.hops import Hops
from hotstart_proxy.origins.guarded import GuardedOrigin
from hotstart_proxy.stores.urls import open_store
from hotstart_proxy.telemetry.logs import log_event
from hotstart_proxy.telemetry.metrics import Metrics, StoreReading

from .addresses import Address, BoundSocket, CannotListen, InvalidAddress, UnixAddress, bind, parse_address
from .app import App, handlers
from .composition import cache_settings, model_origin
from .connections import Connection
from .native import NativeOptions
from .routes import Listener
from .settings import Settings
from .tokens import Tokens

__all__ = ["Service"]

_log = logging.getLogger("hotstart_proxy.service")
ADMIN_SOCKET_MODE = 0o600
# How often a drain looks whether the last transfer is over.
_DRAIN_POLL_SECONDS = 0.02


class Service:
    """A proxy. An async context manager: inside, it serves; at the end everything is closed.

    Attributes:
        addresses: where the data listeners are, with the ports that the kernel chose.
        admin_address: None where there is none.
        draining: the end has begun: not ready, no new connections.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._data_listeners: list[asyncio.AbstractServer] = []
        self._bound: list[BoundSocket] = []
        self._apps: list[App] = []
        self.addresses: list[Address] = []
        self.admin_address: Address | None = None
        self.draining = False

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
        metrics = Metrics(__version__)
        name = Hops.name_of(secrets.token_hex(6))
        origin = await self._stack.enter_async_context(
            GuardedOrigin(model_origin(settings, name, metrics), metrics)
        )
        store = await self._stack.enter_async_context(open_store(settings.store, settings.budget))
        cache = await self._stack.enter_async_context(Cache(origin, store, cache_settings(settings), metrics))
        metrics.watch_store(lambda: self._reading(cache))
        options = NativeOptions(tokens is not None, settings.alias_ttl, settings.presign_expiry)
        for listener in Listener:
            routes = handlers(listener, cache, options, metrics, self._is_draining)
            self._apps.append(
                App(
                    listener,
                    routes,
                    tokens if listener is Listener.DATA else None,
                    metrics,
                    self._is_draining,
                    name,
                )
            )
        data, admin = self._apps
        for address in settings.listen:
            for bound in bind(address, settings.socket_mode):
                self.addresses.append(bound.address)
                self._data_listeners.append(await self._listen(bound, data))
        bound_admin = self._bind_admin()
        if bound_admin is not None:
            self.admin_address = bound_admin.address
            listening = await self._listen(bound_admin, admin)
            self._stack.callback(listening.close)

    async def _listen(self, bound: BoundSocket, app: App) -> asyncio.AbstractServer:
        self._bound.append(bound)
        loop = asyncio.get_running_loop()
        if isinstance(bound.address, UnixAddress):
            return await loop.create_unix_server(app.server, sock=bound.socket)
        return await loop.create_server(app.server, sock=bound.socket)

    def _bind_admin(self) -> BoundSocket | None:
        given = self._settings.admin_listen
        if given is not None:
            return bind(given, ADMIN_SOCKET_MODE)[0]
        folder = Path(self._settings.store.partition(":")[2])
        failure: CannotListen | InvalidAddress | None = None
        # Several proxies may share a store; each has an admin socket of its own.
        for name in ("admin.sock", f"admin-{os.getpid()}.sock"):
            try:
                return bind(parse_address(f"unix:{folder / name}"), ADMIN_SOCKET_MODE)[0]
            except (CannotListen, InvalidAddress) as error:
                failure = error
        log_event(_log, logging.WARNING, "no admin listener; give --admin-listen", {"reason": failure})
        return None

    def _is_draining(self) -> bool:
        return self.draining

    def _reading(self, cache: Cache) -> StoreReading:
        usage = cache.usage()
        ready = cache.state().can_serve and not self.draining
        return StoreReading(usage.used_bytes, usage.budget_bytes, usage.blobs, ready)

    async def drain(self) -> bool:
        """Stop accepting, let running transfers end within the grace period, and cut what is left.

        The admin listener goes on, so that readiness can be seen to be false.

        Returns:
            Whether all transfers ended by themselves.
        """
        self.draining = True
        for listening in self._data_listeners:
            listening.close()
        self._remove_files(Listener.DATA)
        data, _ = self._apps
        # One turn for connections that were accepted but whose requests are not read yet.
        await asyncio.sleep(0)
        for connection in data.server.open_connections():
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

    def _busy(self) -> list[Connection]:
        return [item for item in self._apps[0].server.open_connections() if item.busy]

    def remove_socket_files(self) -> None:
        """Remove the files of all Unix sockets that are still this process's own; idempotent."""
        for listener in Listener:
            self._remove_files(listener)

    def _remove_files(self, listener: Listener) -> None:
        for bound in self._bound:
            if (bound.address == self.admin_address) == (listener is Listener.ADMIN):
                bound.remove_file()

    async def _close(self) -> None:
        for listening in self._data_listeners:
            listening.close()
        self.remove_socket_files()
        for app in self._apps:
            for connection in app.server.open_connections():
                if connection.busy:
                    connection.cut()
            await app.server.shutdown(timeout=1)
        await self._stack.aclose()
