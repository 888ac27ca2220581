"""The table of routes, and finding the one that a raw request target names.

aiohttp's own router decodes before it matches, which turns ``%2F`` and ``..`` into structure. So the target
is taken raw, split once, and what names a model goes through the one parser of references.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import NotCanonical, Reference, parse_url_path

from .problems import MethodNotAllowed, Moved, NoSuchRoute

__all__ = ["ROUTES", "Listener", "Match", "Route", "RouteName", "find_route", "route_of", "split_target"]

READ = ("GET", "HEAD")


class Listener(StrEnum):
    """The kinds of listener.

    All but the admin listener are for clients: they close when a drain begins.
    """

    DATA = "data"
    S3 = "s3"
    CDN = "cdn"
    ADMIN = "admin"


class RouteName(StrEnum):
    """Names of routes, as metrics and logs say them."""

    HOME = "home"
    LIVE = "live"
    READY = "ready"
    METRICS = "metrics"
    MODELS = "models"
    MODEL = "model"
    MANIFEST = "manifest"
    FILE = "file"
    OPEN = "open"
    HUB_FILE = "hub-file"
    HUB_MODEL = "hub-model"
    HUB_REVISION = "hub-revision"
    HUB_TREE = "hub-tree"
    HUB_PATHS = "hub-paths-info"
    HUB_COMMITS = "hub-commits"
    S3_BUCKETS = "s3-buckets"
    S3_BUCKET = "s3-bucket"
    S3_OBJECT = "s3-object"
    WARM = "warm"
    PIN = "pin"
    UNPIN = "unpin"
    EVICT = "evict"
    POLL = "poll"
    GC = "gc"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        name: for metrics and logs.
        methods: that it answers.
        pattern: its path as in docs/http-api.md.
        listeners: that serve it.
        needs_token: where the proxy has tokens.
        summary: what it gives.
    """

    name: RouteName
    methods: tuple[str, ...]
    pattern: str
    listeners: tuple[Listener, ...]
    needs_token: bool
    summary: str


_BOTH = (Listener.DATA, Listener.ADMIN)
_DATA = (Listener.DATA,)
_HEALTH = (*_BOTH, Listener.CDN)
_BYTES = (Listener.DATA, Listener.CDN)
_ADMIN = (Listener.ADMIN,)
_HUB = "/hub"
_HUB_API = f"{_HUB}/api/models/{{model}}"

ROUTES: tuple[Route, ...] = (
    Route(RouteName.HOME, READ, "/", _BOTH, True, "name, version and routes, as text"),
    Route(RouteName.LIVE, READ, "/healthz/live", _HEALTH, False, "200 while the process runs"),
    Route(RouteName.READY, READ, "/healthz/ready", _HEALTH, False, "200 while it can serve or redirect"),
    Route(RouteName.METRICS, READ, "/metrics", _BOTH, True, "metrics for Prometheus"),
    Route(RouteName.MODELS, READ, "/v1/models", _DATA, True, "the models"),
    Route(RouteName.MODEL, READ, "/v1/models/{model}", _DATA, True, "versions, aliases, what is cached"),
    Route(RouteName.MANIFEST, READ, "/v1/models/{model}@{version}", _BYTES, True, "the manifest"),
    Route(RouteName.FILE, READ, "/v1/models/{model}@{version}/{file}", _BYTES, True, "bytes; ranges"),
    Route(
        RouteName.OPEN,
        READ,
        "/v1/open/{model}@{version}",
        _DATA,
        True,
        "all that a client needs to load",
    ),
    # Those of facades are found by the facades themselves.
    Route(
        RouteName.HUB_FILE,
        READ,
        f"{_HUB}/{{model}}/resolve/{{revision}}/{{file}}",
        _DATA,
        True,
        "bytes, as the Hugging Face Hub gives them",
    ),
    Route(RouteName.HUB_MODEL, READ, _HUB_API, _DATA, True, "what the model means"),
    Route(
        RouteName.HUB_REVISION, READ, f"{_HUB_API}/revision/{{revision}}", _DATA, True, "what a revision is"
    ),
    Route(RouteName.HUB_TREE, READ, f"{_HUB_API}/tree/{{revision}}", _DATA, True, "files and folders"),
    Route(
        RouteName.HUB_PATHS,
        ("POST",),
        f"{_HUB_API}/paths-info/{{revision}}",
        _DATA,
        True,
        "some files and folders",
    ),
    Route(RouteName.HUB_COMMITS, READ, f"{_HUB_API}/commits/{{revision}}", _DATA, True, "the one commit"),
    Route(RouteName.S3_BUCKETS, READ, "/s3/", _DATA, True, "the bucket, as S3 lists it"),
    Route(RouteName.S3_BUCKET, READ, "/s3/{bucket}", _DATA, True, "what is in it, as S3 lists it"),
    Route(RouteName.S3_OBJECT, READ, "/s3/{bucket}/{key}", _DATA, True, "bytes, as S3 gives them"),
    Route(RouteName.WARM, ("POST",), "/v1/models/{model}@{version}:warm", _ADMIN, False, "fill the store"),
    Route(RouteName.PIN, ("POST",), "/v1/models/{model}@{version}:pin", _ADMIN, False, "keep it for good"),
    Route(RouteName.UNPIN, ("POST",), "/v1/models/{model}@{version}:unpin", _ADMIN, False, "end a pin"),
    Route(RouteName.EVICT, ("POST",), "/v1/models/{model}@{version}:evict", _ADMIN, False, "empty the store"),
    Route(RouteName.POLL, ("POST",), "/v1/models/{model}:poll", _ADMIN, False, "look for new versions"),
    Route(RouteName.GC, ("POST",), "/v1/gc", _ADMIN, False, "drop what is not kept"),
    Route(RouteName.VERIFY, ("POST",), "/v1/verify", _ADMIN, False, "check the digests of all that is held"),
)
_BY_NAME = {route.name: route for route in ROUTES}
_FIXED = {route.pattern: route for route in ROUTES if "{" not in route.pattern}
_ACTIONS = {
    "warm": RouteName.WARM,
    "pin": RouteName.PIN,
    "unpin": RouteName.UNPIN,
    "evict": RouteName.EVICT,
    "poll": RouteName.POLL,
}
_MODELS_PREFIX = "/v1/models/"
_OPEN_PREFIX = "/v1/open/"
# A client asks for one file in hundreds of ranges. Longer targets are somebody's attempt to fill the memory.
_MOST_REMEMBERED = 512
_MAX_REMEMBERED_CHARS = 512
# RFC 9112, 3.2.2: a server accepts the absolute form.
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Match:
    """A found route.

    Attributes:
        reference: what the path names, where the pattern has a model.
        query: still encoded, without the question mark.
    """

    route: Route
    reference: Reference | None
    query: str


def route_of(name: RouteName) -> Route:
    """Return the route of a name."""
    return _BY_NAME[name]


def split_target(target: str) -> tuple[str, str]:
    """Split a raw request target into path and query; a scheme and authority before them are dropped."""
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :]
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("?")
    return path, query


def find_route(listener: Listener, method: str, target: str) -> Match:
    """Find what a request is for.

    Raises:
        NoSuchRoute: the listener has no such path.
        MethodNotAllowed: it has, but for other methods.
        Moved: the reference spells ``@`` as ``%40``.
        InvalidReference: what stands where a reference belongs is none.
    """
    find = _find_remembered if len(target) <= _MAX_REMEMBERED_CHARS else _find
    return find(listener, method, target)


def _find(listener: Listener, method: str, target: str) -> Match:
    path, query = split_target(target)
    fixed = _FIXED.get(path)
    if fixed is not None:
        return Match(_checked(fixed, listener, method, path), None, query)
    if path.startswith(_OPEN_PREFIX) and listener is Listener.DATA:
        route = _checked(_BY_NAME[RouteName.OPEN], listener, method, path)
        reference = _reference(_OPEN_PREFIX, path.removeprefix(_OPEN_PREFIX), "", query)
        return Match(route, _whole_version(reference), query)
    if not path.startswith(_MODELS_PREFIX):
        raise NoSuchRoute(path)
    rest = path.removeprefix(_MODELS_PREFIX)
    if listener is Listener.ADMIN:
        named, _, action = rest.rpartition(":")
        if action not in _ACTIONS:
            raise NoSuchRoute(path)
        route = _checked(_BY_NAME[_ACTIONS[action]], listener, method, path)
        reference = _whole_version(_reference(_MODELS_PREFIX, named, f":{action}", query))
        if route.name is RouteName.POLL and reference.selector is not None:
            raise InvalidReference(str(reference), "expected a model here, not a version of it")
        return Match(route, reference, query)
    reference = _reference(_MODELS_PREFIX, rest, "", query)
    return Match(_checked(_route_for(reference), listener, method, path), reference, query)


_find_remembered = lru_cache(maxsize=_MOST_REMEMBERED)(_find)


def _route_for(reference: Reference) -> Route:
    if reference.file is not None:
        return _BY_NAME[RouteName.FILE]
    return _BY_NAME[RouteName.MODEL if reference.selector is None else RouteName.MANIFEST]


def _whole_version(reference: Reference) -> Reference:
    if reference.file is not None:
        raise InvalidReference(str(reference), "expected a version here, not a file of it")
    return reference


def _checked(route: Route, listener: Listener, method: str, path: str) -> Route:
    if listener not in route.listeners:
        raise NoSuchRoute(path)
    if method not in route.methods:
        raise MethodNotAllowed(method, route.methods)
    return route


def _reference(prefix: str, raw: str, action: str, query: str) -> Reference:
    try:
        return parse_url_path(raw)
    except NotCanonical as error:
        tail = f"?{query}" if query else ""
        raise Moved(f"{prefix}{error.location}{action}{tail}") from error
