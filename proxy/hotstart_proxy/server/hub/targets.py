"""What a path below ``/hub`` names, sans-IO.

Ids have one segment or two and revisions one, in which clients write the slashes of ``refs/pr/1`` as ``%2F``;
so do they those of a folder. Everywhere else ``%2F`` is refused. What cannot be a name of ours names nothing:
it is not found, which clients take for an answer, and not a bad request, which they do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import check_model, decode_segment
from hotstart_proxy.cache.answers import NotFound
from hotstart_proxy.server.problems import NoSuchRoute
from hotstart_proxy.server.routes import RouteName

__all__ = ["Target", "find_target", "is_commit", "selector_of"]

_COMMIT = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_SELECTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_ESCAPED_SLASH = re.compile("%2f", re.IGNORECASE)
_API = "/api/"
_MODELS = "/api/models/"
_OTHER_KINDS = ("datasets", "spaces", "kernels")
_ACTIONS = {
    "revision": RouteName.HUB_REVISION,
    "tree": RouteName.HUB_TREE,
    "paths-info": RouteName.HUB_PATHS,
    "commits": RouteName.HUB_COMMITS,
}
_WITH_PATH = frozenset((RouteName.HUB_FILE, RouteName.HUB_TREE))
# Branches and tags by their full names.
_FULL_NAMES = ("refs/heads/", "refs/tags/")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for.

    Attributes:
        route: which of the Hub's.
        model: two segments.
        revision: as it was asked for, decoded; None for what the model means by itself.
        path: of a file, or of a folder; empty for the root.
    """

    route: RouteName
    model: str
    revision: str | None = None
    path: str = ""


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is spelled as the id of a commit."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def selector_of(target: Target) -> str | None:
    """Return what a revision that is no commit selects: a version, an alias, ``main``; None for the default.

    Raises:
        NotFound: it is nothing that a model of ours can have.
    """
    revision = target.revision
    if revision is None:
        return None
    for prefix in _FULL_NAMES:
        revision = revision.removeprefix(prefix)
    if not _SELECTOR.fullmatch(revision):
        raise NotFound("version", f"{target.model}@{target.revision}")
    return revision


def find_target(path: str) -> Target:
    """Find what a raw path names.

    Args:
        path: behind ``/hub``, still encoded.

    Raises:
        NoSuchRoute: it is none of those that are served.
        NotFound: it is, and names what can be no model.
        InvalidReference: an escape in it is wrong.
    """
    if path.startswith(_MODELS):
        return _find_api(path, path.removeprefix(_MODELS).split("/"))
    segments = path.removeprefix("/").split("/")
    if path.startswith(_API):
        if segments[1] in _OTHER_KINDS and len(segments) > 2:
            raise NotFound("model", "/".join(segments[1:]))
        raise NoSuchRoute(path)
    if segments[0] in _OTHER_KINDS and "resolve" in segments[1:]:
        raise NotFound("model", "/".join(segments[: segments.index("resolve", 1)]))
    # A model may be called resolve more likely than a version.
    for length in (2, 1):
        if len(segments) >= length + 3 and segments[length] == "resolve":
            return _target(path, RouteName.HUB_FILE, segments[:length], segments[length + 1 :])
    raise NoSuchRoute(path)


def _find_api(path: str, segments: list[str]) -> Target:
    if len(segments) <= 2:
        return Target(RouteName.HUB_MODEL, _model(path, segments))
    for length in (2, 1):
        action = _ACTIONS.get(segments[length])
        if action is not None and len(segments) >= length + 2:
            return _target(path, action, segments[:length], segments[length + 1 :])
    raise NoSuchRoute(path)


def _target(path: str, route: RouteName, model: list[str], rest: list[str]) -> Target:
    revision, *names = rest
    if names and route not in _WITH_PATH:
        raise NoSuchRoute(path)
    if route is RouteName.HUB_FILE:
        file = "/".join(decode_segment(path, name) for name in names)
    else:
        file = _decode_with_slashes(path, "/".join(names))
    return Target(route, _model(path, model), _decode_with_slashes(path, revision), file)


def _model(path: str, segments: list[str]) -> str:
    name = "/".join(decode_segment(path, segment) for segment in segments)
    try:
        return check_model(name)
    except InvalidReference as error:
        raise NotFound("model", name) from error


def _decode_with_slashes(path: str, raw: str) -> str:
    return "/".join(decode_segment(path, segment) for segment in _ESCAPED_SLASH.sub("/", raw).split("/"))
