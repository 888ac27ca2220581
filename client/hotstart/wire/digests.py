"""Content ids and digests: what a blob's name, its Redis key and its ETag are made of."""

from __future__ import annotations

import base64
import hashlib
import re

__all__ = ["adopted_id", "directory_etag", "etag", "is_content_id", "repr_digest", "sha256_id"]

_CONTENT_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_content_id(text: str) -> bool:
    """Tell whether text is 64 lower-case hex digits."""
    return _CONTENT_ID.fullmatch(text) is not None


def sha256_id(data: bytes | bytearray | memoryview) -> str:
    """Return the content id of published bytes: their sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def adopted_id(endpoint: str, bucket: str, key: str, object_etag: str, size: int) -> str:
    """Return the content id of an adopted file, whose sha256 nobody knows.

    It is the sha256 of what identifies the object at its origin, so a replaced object gets another id.

    Args:
        endpoint: the origin's URL without path (``https://s3.eu-west-1.amazonaws.com``, ``file://``).
        bucket: the bucket's name, or the directory's absolute path.
        key: the whole key in the bucket, prefix included.
        object_etag: the object's ETag as the origin wrote it, quotes included.
        size: bytes.
    """
    parts = ("hotstart-adopted-1", endpoint, bucket, key, object_etag, str(size))
    return sha256_id("\0".join(parts).encode("utf-8"))


def directory_etag(mtime_ns: int, size: int, inode: int) -> str:
    """Return the ETag of a file in a directory origin, quotes included.

    It stays while the file is left alone, and changes when it is replaced or written to. Manifests carry it,
    so proxy and client must make it alike.
    """
    return f'"{mtime_ns:x}-{size:x}-{inode:x}"'


def etag(content_id: str) -> str:
    """Return the strong ETag of a representation: its content id in quotes (RFC 9110, 8.8.3)."""
    return f'"{content_id}"'


def repr_digest(sha256_hex: str) -> str:
    """Return the value of ``Repr-Digest`` (RFC 9530) for a sha256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode('ascii')}:"
