"""Fills a disk store until it is killed: python endless_filler.py ROOT. Prints a line after every step."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import zlib
from pathlib import Path

from hotstart.wire.digests import sha256_id
from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.disk import DiskStore


async def main(root: Path) -> None:
    """Fill blobs of two pieces one after the other, and a document beside each."""
    async with DiskStore(root) as store:
        for number in itertools.count():
            data = random.Random(number).randbytes(PIECE_BYTES + 1000)
            content_id = sha256_id(data)
            await store.write_document("org/bert/index.json", str(number).encode() * 10_000)
            print("document", flush=True)
            partial = await store.begin_fill(content_id, len(data), None)
            if partial is None:
                print("there", flush=True)
                continue
            print("begun", flush=True)
            for piece, part in enumerate((data[:PIECE_BYTES], data[PIECE_BYTES:])):
                await partial.write(piece, part, zlib.crc32(part))
                print("piece", flush=True)
            await partial.commit(content_id)
            await partial.close()
            print("committed", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
