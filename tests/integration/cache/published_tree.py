"""A directory with published versions in it, written by hand: origin layout 1 without the publisher."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from hotstart.wire.digests import sha256_id
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.layout import file_key, index_key, manifest_key
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart.wire.pieces import PieceHasher, Pieces
from hotstart_proxy.origins.directory import DirectoryOrigin

__all__ = ["MODEL", "PublishedTree", "some_bytes"]

MODEL = "org/bert"
_FIRST_PUBLISHED_AT = 1_700_000_000_000


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes that no piece has twice."""
    return random.Random(seed).randbytes(size)


class PublishedTree:
    """Publishes versions into a directory, one minute after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origin = DirectoryOrigin(root)
        self.indexes: dict[str, Index] = {}

    async def publish(
        self, version: str, files: Mapping[str, bytes], model: str = MODEL, *, wrong_sha256: bool = False
    ) -> Manifest:
        """Publish a version; wrong_sha256 announces another sha256 than the bytes have, none of pieces."""
        index = self.indexes.get(model, Index(model))
        published_at = index.next_published_at(_FIRST_PUBLISHED_AT + 60_000 * len(index.versions))
        entries = []
        for path, data in sorted(files.items()):
            info = await self.origin.put(file_key(model, version, path), data)
            hasher = PieceHasher()
            hasher.update(data)
            sha256, pieces = hasher.finish()
            if wrong_sha256:
                sha256 = sha256_id(b"something else")
                # A store that compares every piece by sha256 has no need to hash the whole.
                pieces = Pieces(pieces.crc32, b"")
            item = OriginObject(file_key(model, version, path), info.etag)
            entries.append(
                File(path, len(data), sha256, sha256, "application/octet-stream", item, pieces=pieces)
            )
        manifest = Manifest(model, version, published_at, tuple(entries))
        await self.origin.put(manifest_key(model, version), manifest.dump())
        entry = IndexEntry(version, published_at, sha256_id(manifest.dump()))
        await self.write_index(index.with_version(entry))
        return manifest

    async def alias(self, alias: str, version: str, model: str = MODEL) -> None:
        """Move an alias."""
        await self.write_index(self.indexes[model].with_alias(alias, version))

    async def write_index(self, index: Index) -> None:
        """Replace a model's index."""
        self.indexes[index.model] = index
        await self.origin.put(index_key(index.model), index.dump())
