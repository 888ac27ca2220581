"""What reading an origin's tree asks for, and is answered: the words of a ``Plan``."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

__all__ = ["ListObjects", "ListedObject", "Listing", "ObjectBytes", "Plan", "ReadObject"]


@dataclass(frozen=True, slots=True)
class ReadObject:
    """Request: the bytes of a small object.

    The answer is ``ObjectBytes``, or None if there is none.

    Attributes:
        key: relative to the origin's prefix.
        known_etag: if the object still has it, the answer's data may be None (304).
    """

    key: str
    known_etag: str | None = None


@dataclass(frozen=True, slots=True)
class ListObjects:
    """Request: what lies under a prefix. The answer is a ``Listing``.

    Attributes:
        prefix: relative to the origin's prefix; empty or with a trailing slash.
        recursive: everything below; otherwise objects directly there, and folders.
    """

    prefix: str
    recursive: bool


@dataclass(frozen=True, slots=True)
class ObjectBytes:
    """A small object.

    Attributes:
        data: None where known_etag still holds.
        etag: quotes included.
        last_modified: milliseconds since the epoch.
    """

    data: bytes | None
    etag: str
    last_modified: int


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in a listing: key relative to the origin's prefix, last_modified in milliseconds."""

    key: str
    size: int
    etag: str
    last_modified: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies under a prefix, sorted; folders are relative keys with a trailing slash."""

    objects: tuple[ListedObject, ...]
    folders: tuple[str, ...] = ()


T = TypeVar("T")
Plan: TypeAlias = Generator[ReadObject | ListObjects, ObjectBytes | Listing | None, T]
