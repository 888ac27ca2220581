"""All that one proxy listens on, bound in one place, so that workers can share it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hotstart_proxy.stores.folders import make_folder
from hotstart_proxy.stores.system import System
from hotstart_proxy.stores.urls import store_folder
from hotstart_proxy.telemetry.logs import log_event

from .addresses import Address, BoundSocket, CannotListen, InvalidAddress, bind, parse_address
from .routes import Listener
from .settings import Settings

__all__ = ["Listeners", "bind_listeners"]

_log = logging.getLogger("hotstart_proxy.listeners")
ADMIN_SOCKET_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Listeners:
    """Listening sockets. Whoever bound them closes them and removes their files, and nobody else.

    Attributes:
        clients: those for clients, by kind; every kind but admin is there, perhaps without a socket.
        admin: None where there is none.
    """

    clients: Mapping[Listener, Sequence[BoundSocket]]
    admin: BoundSocket | None

    def addresses(self, listener: Listener) -> list[Address]:
        """Return where the listeners of a kind for clients are, with the ports that the kernel chose."""
        return [bound.address for bound in self.clients[listener]]

    def lent(self) -> Listeners:
        """Return the same sockets for a process that is to leave the files alone."""
        clients = {
            listener: [BoundSocket(bound.address, bound.socket) for bound in sockets]
            for listener, sockets in self.clients.items()
        }
        admin = None if self.admin is None else BoundSocket(self.admin.address, self.admin.socket)
        return Listeners(clients, admin)

    def _client_sockets(self) -> Iterator[BoundSocket]:
        for sockets in self.clients.values():
            yield from sockets

    def remove_client_files(self) -> None:
        """Remove the files of the sockets for clients; idempotent."""
        for bound in self._client_sockets():
            bound.remove_file()

    def remove_files(self) -> None:
        """Remove the files of all sockets; idempotent."""
        self.remove_client_files()
        if self.admin is not None:
            self.admin.remove_file()

    def close_clients(self) -> None:
        """Stop listening for clients, and remove the files of those sockets; idempotent."""
        for bound in self._client_sockets():
            bound.socket.close()
        self.remove_client_files()

    def close(self) -> None:
        """Stop listening altogether; idempotent."""
        self.close_clients()
        if self.admin is not None:
            self.admin.socket.close()
        self.remove_files()


def bind_listeners(settings: Settings) -> Listeners:
    """Bind and listen on all addresses, in the settings' order.

    Raises:
        CannotListen: on one of them; what had been bound is closed again.
    """
    wanted = {
        Listener.DATA: settings.listen,
        Listener.S3: settings.s3_listen,
        Listener.CDN: settings.cdn,
    }
    bound: dict[Listener, list[BoundSocket]] = {listener: [] for listener in wanted}
    try:
        for listener, addresses in wanted.items():
            for address in addresses:
                bound[listener] += bind(address, settings.socket_mode)
        return Listeners(bound, _bind_admin(settings))
    except BaseException:
        Listeners(bound, None).close()
        raise


def _bind_admin(settings: Settings) -> BoundSocket | None:
    if settings.admin_listen is not None:
        return bind(settings.admin_listen, ADMIN_SOCKET_MODE)[0]
    folder = next((found for store in settings.store if (found := store_folder(store))), None)
    if folder is None:
        reason = "no store has a folder for its socket"
        log_event(_log, logging.WARNING, "no admin listener; give --admin-listen", {"reason": reason})
        return None
    try:
        # Workers' sockets are bound before their store is opened.
        make_folder(System(), folder)
    except OSError:
        # Opening the store says so, as the error that it is.
        return None
    failure: CannotListen | InvalidAddress | None = None
    # Several proxies may share a store; each has an admin socket of its own.
    for name in ("admin.sock", f"admin-{os.getpid()}.sock"):
        try:
            return bind(parse_address(f"unix:{folder / name}"), ADMIN_SOCKET_MODE)[0]
        except (CannotListen, InvalidAddress) as error:
            failure = error
    log_event(_log, logging.WARNING, "no admin listener; give --admin-listen", {"reason": failure})
    return None
