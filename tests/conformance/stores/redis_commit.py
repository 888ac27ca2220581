"""Fills a blob in a process of its own, says ``ready``, and commits when it is told to by a line.

python redis_commit.py STORE LEASE_SECONDS ID; the bytes are ``b"abc"``. Prints what came of the commit.
"""

from __future__ import annotations

import asyncio
import sys
import zlib

from hotstart_proxy.stores.base import StoreError
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_urls import parse_redis_url


async def _main(url: str, lease_seconds: float, content_id: str) -> None:
    async with RedisStore(parse_redis_url(url), 1 << 30, lease_seconds=lease_seconds) as store:
        partial = await store.begin_fill(content_id, 3, None)
        assert partial is not None
        await partial.write(0, b"abc", zlib.crc32(b"abc"))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await partial.commit(None)
            print("committed", flush=True)
        except StoreError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        await partial.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
