"""Which bucket and key a request names: path style and virtual-host style, and keys to references."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import Reference, check_file, check_model, check_version, decode_segment

from .errors import MalformedKey, NoSuchBucket

__all__ = ["BUCKET_RULE", "Target", "find_target", "is_bucket_name", "key_reference"]

BUCKET_RULE = "3 to 63 of a-z 0-9 . - that begin and end with a letter or digit"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for: the service (no bucket), the bucket (no key), or an object.

    Attributes:
        key: decoded; empty for none.
    """

    has_bucket: bool
    key: str = ""


def is_bucket_name(text: str) -> bool:
    """Tell whether a bucket can be called so."""
    return _BUCKET.fullmatch(text) is not None


def find_target(bucket: str, host: str, path: str) -> Target:
    """Find what a request names.

    A host whose first labels are the bucket's name means virtual-host style, unless the path begins with the
    bucket as well: then the proxy's own host happens to be called so.

    Args:
        bucket: the one there is.
        host: of the request, perhaps with a port.
        path: raw, behind the facade's prefix: empty, or beginning with a slash.

    Raises:
        NoSuchBucket: path style, with another bucket.
        MalformedKey: it cannot be decoded.
    """
    segments = _decoded(path[1:].split("/"), path)
    if host.lower().startswith(f"{bucket}.") and segments[0] != bucket:
        return Target(has_bucket=True, key="/".join(segments))
    if segments == [""]:
        return Target(has_bucket=False)
    if segments[0] != bucket:
        raise NoSuchBucket(segments[0], bucket)
    return Target(has_bucket=True, key="/".join(segments[1:]))


def _decoded(segments: list[str], path: str) -> list[str]:
    try:
        return [decode_segment(path, segment) for segment in segments]
    except InvalidReference as error:
        raise MalformedKey(error.reason) from error


def key_reference(key: str) -> Reference | None:
    """Return what a key, ``org/name/version/file``, refers to; None if no object can have it.

    Its version may still turn out to be an alias, which no key has.
    """
    parts = key.split("/", 3)
    if len(parts) < 4:
        return None
    try:
        return Reference(check_model("/".join(parts[:2])), check_version(parts[2]), check_file(parts[3]))
    except InvalidReference:
        return None
