"""Origin layout 1: under which keys, relative to the origin's prefix, a model's things lie."""

from __future__ import annotations

from .references import RESERVED_PREFIX

__all__ = ["begin_key", "file_key", "index_key", "manifest_key", "twins_key", "version_prefix"]


def index_key(model: str) -> str:
    """Return the key of a model's index."""
    return f"{model}/{RESERVED_PREFIX}/index.json"


def version_prefix(model: str, version: str) -> str:
    """Return the prefix, with its slash, under which all of a version lies."""
    return f"{model}/{version}/"


def file_key(model: str, version: str, path: str) -> str:
    """Return the key of a file or twin (path with the twin's suffix)."""
    return version_prefix(model, version) + path


def begin_key(model: str, version: str) -> str:
    """Return the key of the publisher's claim."""
    return f"{version_prefix(model, version)}{RESERVED_PREFIX}/begin.json"


def manifest_key(model: str, version: str) -> str:
    """Return the key of the manifest; the version exists from the moment that this object does."""
    return f"{version_prefix(model, version)}{RESERVED_PREFIX}/manifest.json"


def twins_key(model: str, version: str, suffix: str) -> str:
    """Return the key of twins that were added later, for one suffix (``.zst``)."""
    return f"{version_prefix(model, version)}{RESERVED_PREFIX}/twins-{suffix.lstrip('.')}.json"
