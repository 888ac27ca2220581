"""The names of the documents that a store keeps for the cache, under ``models/``.

::

    org/bert/index.json           the index as last seen
    org/bert/manifests/7.json     a kept version's manifest, exactly as at the origin
    org/bert/pieces/<id>.json     an adopted blob's digests, learned when it was filled
    org/bert/pins/7.json          a pin on a version
    org/bert/arrivals/7.json      a version that is to be filled before anyone asks, until it is
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

__all__ = [
    "Kind",
    "Place",
    "arrival_name",
    "index_name",
    "manifest_name",
    "pieces_name",
    "pin_name",
    "place_of",
]

_INDEX = "index.json"
_SUFFIX = ".json"


class Kind(Enum):
    """What a document is."""

    INDEX = auto()
    MANIFEST = auto()
    PIECES = auto()
    PIN = auto()
    ARRIVAL = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """A document's name taken apart; name is the version or content id, empty for an index."""

    model: str
    kind: Kind
    name: str


def index_name(model: str) -> str:
    """Return the name of a model's index."""
    return f"{model}/{_INDEX}"


def manifest_name(model: str, version: str) -> str:
    """Return the name of a version's manifest."""
    return f"{model}/manifests/{version}{_SUFFIX}"


def pieces_name(model: str, content_id: str) -> str:
    """Return the name of an adopted blob's digests."""
    return f"{model}/pieces/{content_id}{_SUFFIX}"


def pin_name(model: str, version: str) -> str:
    """Return the name of a pin on a version."""
    return f"{model}/pins/{version}{_SUFFIX}"


def arrival_name(model: str, version: str) -> str:
    """Return the name of the note that a version is to be filled."""
    return f"{model}/arrivals/{version}{_SUFFIX}"


def place_of(name: str) -> Place | None:
    """Take a name apart; None if it is none of ours."""
    match name.split("/"):
        case [organisation, model, last] if last == _INDEX:
            return Place(f"{organisation}/{model}", Kind.INDEX, "")
        case [organisation, model, "manifests", last] if last.endswith(_SUFFIX):
            return Place(f"{organisation}/{model}", Kind.MANIFEST, last.removesuffix(_SUFFIX))
        case [organisation, model, "pieces", last] if last.endswith(_SUFFIX):
            return Place(f"{organisation}/{model}", Kind.PIECES, last.removesuffix(_SUFFIX))
        case [organisation, model, "pins", last] if last.endswith(_SUFFIX):
            return Place(f"{organisation}/{model}", Kind.PIN, last.removesuffix(_SUFFIX))
        case [organisation, model, "arrivals", last] if last.endswith(_SUFFIX):
            return Place(f"{organisation}/{model}", Kind.ARRIVAL, last.removesuffix(_SUFFIX))
        case _:
            return None
