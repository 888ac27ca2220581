"""Endpoints: where a server listens, read from URLs; and URLs without what is secret in them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from hotstart.wire.errors import HotstartError

__all__ = ["Endpoint", "InvalidUrl", "mask_queries", "masked", "parse_proxy_url", "parse_url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# sun_path holds 108 bytes with its end; a longer path fails in connect with a message that names nothing.
MAX_SOCKET_PATH_BYTES = 107
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+", re.ASCII)
_QUERY = re.compile(r"\?[^\s\"'<>]*")


class InvalidUrl(HotstartError):
    """A URL cannot be used.

    Attributes:
        url: what was given, without query and user.
        reason: what is wrong with it, and what was expected.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = masked(url)
        self.reason = reason
        super().__init__(f"{self.url!r}: {reason}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        scheme: ``http``, ``https`` or ``unix``.
        host: name or address, IPv6 without brackets; ``localhost`` for a Unix socket.
        port: 0 for a Unix socket.
        socket_path: of a Unix socket; empty otherwise.
    """

    scheme: str
    host: str
    port: int
    socket_path: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.socket_path}"
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header: the port stands in it where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (0, _DEFAULT_PORTS.get(self.scheme)) else f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this host, as far as the name alone tells."""
        if self.scheme == "unix" or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def masked(url: str) -> str:
    """Return a URL without user, query and fragment: what may stand in logs and errors."""
    head, _, _ = url.partition("?")
    head, _, _ = head.partition("#")
    scheme, separator, rest = head.partition("://")
    if not separator:
        return head
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def mask_queries(text: str) -> str:
    """Return text in which every query string of a URL is cut away."""
    return _QUERY.sub("?…", text)


def parse_proxy_url(url: str) -> Endpoint:
    """Read ``http://host:8470``, ``https://host`` or ``unix:/run/hotstart.sock``.

    Raises:
        InvalidUrl: anything else.
    """
    if url.startswith("unix:"):
        return _parse_unix(url)
    endpoint, target = parse_url(url)
    if target != "/":
        raise InvalidUrl(url, "expected no path and no query after the port: http://host:8470")
    return endpoint


def _parse_unix(url: str) -> Endpoint:
    path = url.removeprefix("unix:")
    if path.startswith("//"):
        path = path.removeprefix("//")
    if not path.startswith("/") or "\0" in path:
        raise InvalidUrl(url, "expected an absolute path: unix:/run/hotstart.sock")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        raise InvalidUrl(url, f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes: use a shorter one")
    return Endpoint("unix", "localhost", 0, path)


def parse_url(url: str) -> tuple[Endpoint, str]:
    """Split an http or https URL into the endpoint and the request target (path and query, as given).

    Raises:
        InvalidUrl: another scheme, a user in it, no host, a port that is none, or characters that must be
            escaped in a URL.
    """
    if not _VISIBLE_ASCII.fullmatch(url):
        raise InvalidUrl(url, "expected visible ASCII characters only; escape others as %XX")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidUrl(url, str(error)) from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidUrl(url, "expected an http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise InvalidUrl(url, "expected no user name or password in the URL")
    if not parts.hostname or port == 0:
        raise InvalidUrl(url, "expected a host, as in http://host:8470")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]), target
