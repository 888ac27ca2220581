"""Where the proxy listens: TCP addresses and Unix sockets, from text to bound sockets."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from hotstart.wire.errors import HotstartError

__all__ = [
    "Address",
    "BoundSocket",
    "CannotListen",
    "InvalidAddress",
    "TcpAddress",
    "UnixAddress",
    "bind",
    "parse_address",
]

# As many as the kernel keeps by default (net.core.somaxconn): a burst of cold starts connects at once.
BACKLOG = 4096
# sizeof(sockaddr_un.sun_path) on Linux, with the terminating zero byte.
MAX_SOCKET_PATH_BYTES = 107

_TCP = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):(\d{1,5})", re.ASCII)


class InvalidAddress(HotstartError):
    """A text is no address to listen on."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"{text!r}: {reason}")


class CannotListen(HotstartError):
    """An address is well-formed but cannot be listened on now.

    Attributes:
        address: as it was given.
        reason: what stands in the way, and what to do.
    """

    def __init__(self, address: Address, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"cannot listen on {address}: {reason}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and port; port 0 lets the kernel choose.

    Attributes:
        host: a name or an address, an IPv6 address without its brackets.
        port: 0 to 65535.
    """

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Only this host gets there."""
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self) -> str:
        """Return what a client puts into ``HOTSTART_PROXY``."""
        return f"http://{self}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket."""

    path: Path

    @property
    def is_local(self) -> bool:
        """Only this host gets there."""
        return True

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def url(self) -> str:
        """Return what a client puts into ``HOTSTART_PROXY``."""
        return str(self)


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Parse ``127.0.0.1:8470``, ``[::1]:8470``, ``name:8470`` or ``unix:/path.sock``.

    Raises:
        InvalidAddress: anything else.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute() or "\0" in text:
            raise InvalidAddress(text, "expected an absolute path after unix:")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise InvalidAddress(
                text, f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes: use a shorter one"
            )
        return UnixAddress(path)
    match = _TCP.fullmatch(text)
    if match is None:
        raise InvalidAddress(text, "expected HOST:PORT, [IPV6]:PORT or unix:/PATH")
    port = int(match[2])
    if port > 65535:
        raise InvalidAddress(text, f"port {port} is above 65535")
    return TcpAddress(match[1].strip("[]"), port)


@dataclass(slots=True)
class BoundSocket:
    """A listening socket, owned by whoever bound it until a server takes it.

    Attributes:
        address: where it listens, with the port that the kernel chose.
        inode: of the socket file, by which ``remove_file`` knows its own; None for TCP, and for a file that
            another process is to remove.
    """

    address: Address
    socket: socket.socket
    inode: int | None = None

    def remove_file(self) -> None:
        """Remove the socket file unless another process has put its own there since."""
        if not isinstance(self.address, UnixAddress) or self.inode is None:
            return
        if _inode(self.address.path) == self.inode:
            self.address.path.unlink(missing_ok=True)


def bind(address: Address, mode: int) -> list[BoundSocket]:
    """Bind and listen; a host name that stands for several addresses gives several sockets.

    A Unix socket's file that no process listens on any more is replaced; one in use is refused.

    Args:
        address: where.
        mode: permission bits of a Unix socket's file.

    Raises:
        CannotListen: in use, not permitted, no such host or folder.
    """
    try:
        if isinstance(address, UnixAddress):
            return [_bind_unix(address, mode)]
        return _bind_tcp(address)
    except OSError as error:
        raise CannotListen(address, _reason(address, error)) from error


def _bind_tcp(address: TcpAddress) -> list[BoundSocket]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    bound: list[BoundSocket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(BoundSocket(address, listener))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # 0.0.0.0 and [::] may both be given.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            bound[-1].address = TcpAddress(address.host, listener.getsockname()[1])
    except OSError:
        for item in bound:
            item.socket.close()
        raise
    return bound


def _bind_unix(address: UnixAddress, mode: int) -> BoundSocket:
    _remove_stale(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody may connect between bind and chmod, and the umask decides nothing.
        umask = os.umask(0o177)
        try:
            listener.bind(str(address.path))
        finally:
            os.umask(umask)
        address.path.chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return BoundSocket(address, listener, _inode(address.path))


def _remove_stale(address: UnixAddress) -> None:
    try:
        kind = address.path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise CannotListen(address, "a file that is no socket is there: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            # Its backlog is full, so somebody listens.
            pass
    raise CannotListen(address, "another process listens there: stop it or choose another path")


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        # Not there, and perhaps not even its folder.
        return None


def _reason(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there: stop it or choose another port"
    if error.errno == errno.EACCES and isinstance(address, TcpAddress):
        return "not permitted: ports below 1024 need a privilege, choose a higher one"
    if error.errno == errno.ENOENT and isinstance(address, UnixAddress):
        return f"there is no folder {address.path.parent}: create it"
    return error.strerror or str(error)
