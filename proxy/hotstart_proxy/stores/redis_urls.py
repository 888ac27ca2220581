"""Where a Redis is: the URL forms of ``--store``, taken apart, and how they are shown without their secrets.

::

    redis://[[user]:password@]host[:6379][/0]      one server
    rediss://…                                     one server, TLS
    redis+cluster://…@host:port[,host:port…]       a cluster, found by any of its nodes
    rediss+cluster://…                             a cluster, TLS
    unix://[[user]:password@]/path[?db=0]          one server's Unix socket

TLS takes redis-py's options in the query: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``,
``ssl_cert_reqs`` and ``ssl_check_hostname``. User, password and paths are percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl, unquote

from hotstart.wire.errors import HotstartError

__all__ = ["REDIS_SCHEMES", "InvalidRedisUrl", "RedisPlace", "masked", "parse_redis_url"]

REDIS_SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
_DEFAULT_PORT = 6379
_MASK = "***"
# To the last @: a password that was not encoded must not be shown in part.
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)
_SECRET_QUERY = re.compile(r"(?i)((?:password|secret|token)[^=&]*=)[^&]*")


class InvalidRedisUrl(HotstartError):
    """A URL names no Redis; the message does not repeat its secrets.

    Attributes:
        url: what was given, masked.
        reason: what is wrong with it.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = masked(url)
        self.reason = reason
        super().__init__(f"{self.url!r} names no Redis: {reason}")


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A Redis and how to get in.

    Attributes:
        url: as it may be shown.
        nodes: host and port of the server, or of some nodes of the cluster; empty for a Unix socket.
        unix: the socket's path, or None.
        cluster: it is a cluster, which has database 0 alone.
        database: number.
        username, password: None for the server's default user, or for no password.
        tls: redis-py's options by name; None for no TLS.
    """

    url: str
    nodes: tuple[tuple[str, int], ...] = ()
    unix: str | None = None
    cluster: bool = False
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, str | bool] | None = None


def masked(url: str) -> str:
    """Return a URL without user, password and secret options; one without secrets as it is."""
    return _SECRET_QUERY.sub(rf"\1{_MASK}", _CREDENTIALS.sub(f"{_MASK}@", url))


def parse_redis_url(url: str) -> RedisPlace:
    """Take a store's URL apart.

    Raises:
        InvalidRedisUrl
    """

    def refuse(reason: str) -> InvalidRedisUrl:
        return InvalidRedisUrl(url, reason)

    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in REDIS_SCHEMES:
        raise refuse(f"expected {'://…, '.join(REDIS_SCHEMES)}://…")
    rest, _, query = rest.partition("?")
    credentials, at, place = rest.rpartition("@")
    username, colon, password = credentials.partition(":")
    if at and not colon:
        raise refuse("before the @ belongs USER:PASSWORD, or :PASSWORD")
    options = _options(query, refuse)
    known = RedisPlace(masked(url), username=unquote(username) or None, password=unquote(password) or None)
    if scheme == "unix":
        if not place.startswith("/"):
            raise refuse("expected unix:///ABSOLUTE/PATH")
        database = _database(options.pop("db", ""), refuse)
        _refuse_rest(options, refuse)
        return replace(known, unix=unquote(place), database=database)
    cluster = scheme.endswith("+cluster")
    tls = _tls(options, refuse) if scheme.startswith("rediss") else None
    hosts, _, number = place.partition("/")
    database = _database(options.pop("db", "") or number, refuse)
    _refuse_rest(options, refuse)
    nodes = tuple(_node(node, refuse) for node in hosts.split(","))
    if cluster and database:
        raise refuse("a cluster has database 0 alone")
    if not cluster and len(nodes) > 1:
        raise refuse(f"several hosts are a cluster's: write {scheme}+cluster://")
    return replace(known, nodes=nodes, cluster=cluster, database=database, tls=tls)


_Refuse = Callable[[str], InvalidRedisUrl]


def _options(query: str, refuse: _Refuse) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        raise refuse("an option is given twice")
    return dict(pairs)


def _refuse_rest(options: Mapping[str, str], refuse: _Refuse) -> None:
    for name in options:
        if name.startswith("ssl_"):
            raise refuse(f"the option {name} is for rediss:// or rediss+cluster:// alone")
        raise refuse(f"there is no option {name!r}")


def _database(text: str, refuse: _Refuse) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise refuse(f"{text!r} is no database's number")
    return int(text)


def _node(text: str, refuse: _Refuse) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/\s]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise refuse(f"{text!r} is no HOST:PORT")
    port = int(match[2]) if match[2] else _DEFAULT_PORT
    if not 0 < port < 65536:
        raise refuse(f"{port} is no port")
    return match[1].strip("[]"), port


def _tls(options: dict[str, str], refuse: _Refuse) -> dict[str, str | bool]:
    tls: dict[str, str | bool] = {}
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if options.get(name):
            tls[name] = options.pop(name)
    required = options.pop("ssl_cert_reqs", "required")
    if required not in ("required", "none"):
        raise refuse(f"ssl_cert_reqs is {required!r}: expected required or none")
    tls["ssl_cert_reqs"] = required
    check = options.pop("ssl_check_hostname", "true" if required == "required" else "false").lower()
    if check not in ("true", "false"):
        raise refuse(f"ssl_check_hostname is {check!r}: expected true or false")
    tls["ssl_check_hostname"] = check == "true"
    return tls
