"""Fills some of a blob in a process of its own, then waits to be killed.

python claimer.py STORE LEASE_SECONDS ID SIZE WRITTEN CLAIMED

WRITTEN and CLAIMED are numbers of pieces, from the first: so many are written, so many more claimed. The
bytes are those of ``pattern``. Prints ``ready``.
"""

from __future__ import annotations

import asyncio
import sys
import zlib

from hotstart.wire.pieces import PIECE_BYTES, piece_range
from hotstart_proxy.stores.base import Store
from hotstart_proxy.stores.urls import open_store

__all__ = ["pattern"]


def pattern(size: int) -> bytes:
    """Return size bytes that differ from piece to piece."""
    return b"".join(bytes([piece % 251]) * PIECE_BYTES for piece in range(-(-size // PIECE_BYTES)))[:size]


def _open(url: str, lease_seconds: float) -> Store:
    if url.startswith("disk:"):
        return open_store(url, None)
    from hotstart_proxy.stores.redis import RedisStore
    from hotstart_proxy.stores.redis_urls import parse_redis_url

    return RedisStore(parse_redis_url(url), None, lease_seconds=lease_seconds)


async def _main(
    url: str, lease_seconds: float, content_id: str, size: int, written: int, claimed: int
) -> None:
    data = pattern(size)
    async with _open(url, lease_seconds) as store:
        partial = await store.begin_fill(content_id, size, None)
        assert partial is not None
        for piece in range(written):
            place = piece_range(piece, size)
            part = data[place.start : place.stop]
            await partial.write(piece, part, zlib.crc32(part))
        wanted = list(range(written, written + claimed))
        assert list(await partial.claim(wanted)) == wanted
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    _url, _lease, _id, *_numbers = sys.argv[1:]
    asyncio.run(_main(_url, float(_lease), _id, *map(int, _numbers)))
