"""Everything at once, whatever the stores."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.origins.base import OriginUnreachable
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read

SIZES = (2 * PIECE_BYTES + 1, PIECE_BYTES, 3 * PIECE_BYTES - 5, 1000)


FILES = {f"file-{place}": some_bytes(size, seed=place) for place, size in enumerate(SIZES)}


READERS = 60


async def read_somehow(cache: Cache, rng: random.Random) -> int:
    """Read a random range, perhaps not to its end; return how many bytes came."""
    version = rng.choice(["1", "2", "3"])
    path, data = rng.choice(sorted(FILES.items()))
    start = rng.randrange(len(data))
    wanted = ByteRange(start, rng.randrange(start, len(data) + 1))
    patience = rng.choice([1, 1, 1, 0.2])
    position = wanted.start
    try:
        body = await open_body(cache, f"org/bert@{version}/{path}", wanted)
        try:
            async for part in body.parts():
                got = part_bytes(part)
                if body.source is not BodySource.PASSED_ON:
                    assert got == mixed(version, data)[position : position + len(got)]
                position += len(got)
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
                if rng.random() > patience:
                    return position - wanted.start
            assert position == wanted.stop
        finally:
            await body.close()
    except (OriginUnreachable, IntegrityError):
        pass
    return position - wanted.start


def mixed(version: str, data: bytes) -> bytes:
    """Return what a file holds in a version: the same but for the last byte."""
    return data[:-1] + version.encode()


class TurmoilSuite:
    """See ``suite.CacheSuite``."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_turmoil(self, bench: Bench, seed: int) -> None:
        """Readers get verified bytes or an error whatever happens; in the end all works and nothing leaks."""
        rng = random.Random(seed)
        for version in ("1", "2", "3"):
            await bench.tree.publish(version, {path: mixed(version, data) for path, data in FILES.items()})
        for _ in range(6):
            version, path = rng.choice("123"), rng.choice(sorted(FILES))
            key = f"org/bert/{version}/{path}"
            bench.origin.cuts.append((key, rng.randrange(len(FILES[path]))))
            bench.origin.damages[(key, rng.randrange(len(FILES[path])))] = 1
        budget = 10 * PIECE_BYTES
        settings = CacheSettings(keep_versions=2, fill_connections=rng.choice([1, 2, 8]))
        async with bench.cache(settings, budget_bytes=budget) as cache:
            tasks = [asyncio.create_task(read_somehow(cache, rng)) for _ in range(READERS)]
            while waiting := [task for task in tasks if not task.done()]:
                assert cache.usage().used_bytes <= budget
                if rng.random() < 0.3:
                    rng.choice(waiting).cancel()
                await asyncio.wait(waiting, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if not task.cancelled():
                    task.result()
            bench.origin.cuts.clear()
            bench.origin.damages.clear()
            for version in ("1", "2", "3"):
                for path, data in FILES.items():
                    assert (await read(cache, f"org/bert@{version}/{path}"))[0] == mixed(version, data)
            await eventually(lambda: cache.usage().used_bytes <= budget)
        store = str(bench.store_root)
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        assert not [link for link in links if os.path.lexists(link) and store in os.readlink(link)]
        assert asyncio.all_tasks() == {asyncio.current_task()}
