"""Small documents in Redis: a hash for each model, a field for each of its documents."""

from __future__ import annotations

from collections.abc import Sequence

from .base import StoreError
from .redis_keys import PREFIX, document_name, model_key
from .redis_link import RedisLink

__all__ = ["RedisDocuments"]


class RedisDocuments:
    """All documents of a store (errors as ``RedisLink.command``)."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def read(self, name: str) -> bytes | None:
        """Read a document; None if there is none."""
        data: bytes | None = await self._link.command(f"reading {name}", "HGET", *self._place(name))
        return data

    async def write(self, name: str, data: bytes) -> None:
        """Keep a document."""
        await self._link.command(f"writing {name}", "HSET", *self._place(name), data)

    async def delete(self, name: str) -> None:
        """Remove a document; no error if there is none."""
        await self._link.command(f"removing {name}", "HDEL", *self._place(name))

    async def names(self) -> Sequence[str]:
        """Return the names of all documents, sorted."""
        doing = "listing documents"
        keys = sorted({key async for key in self._link.keys(doing, f"{PREFIX}m:*")})
        fields = await self._link.many(doing, [("HKEYS", key) for key in keys])
        return sorted(
            document_name(key.decode(), field.decode())
            for key, names in zip(keys, fields, strict=True)
            for field in names
        )

    def _place(self, name: str) -> tuple[str, str]:
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise StoreError(self._link.url, f"naming a document {name!r}", "it is no plain relative name")
        return model_key(name)
