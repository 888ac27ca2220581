"""Passing through what is not kept, whatever the stores."""

from __future__ import annotations

import asyncio

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.origins.base import OriginUnreachable
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import body_bytes, eventually, open_body, part_bytes, read, read_to_error

MODEL_BYTES = some_bytes(5 * PIECE_BYTES + 99, seed=3)


FILE = "org/bert@1/model.safetensors"


KEY = "org/bert/1/model.safetensors"


SETTINGS = CacheSettings(keep_versions=0)


async def publish(bench: Bench) -> None:
    await bench.tree.publish("1", {"model.safetensors": MODEL_BYTES, "empty": b""})


def sharing(cache: Cache) -> int:
    """Return how many readers take part in reads that others may join."""
    return sum(len(shared.readers) for shared in cache._passthrough._all)


class PassThroughSuite:
    """See ``suite.CacheSuite``."""

    async def test_readers_at_once_share_one_read(self, bench: Bench) -> None:
        """Readers of the same bytes that come together cost the origin one copy, and nothing is kept."""
        await publish(bench)
        hold = bench.origin.hold(KEY, ByteRange(0, 1))
        async with bench.cache(SETTINGS) as cache:
            reading = [asyncio.create_task(read(cache, FILE)) for _ in range(8)]
            await eventually(lambda: sharing(cache) == 8)
            hold.set()
            assert await asyncio.gather(*reading) == [(MODEL_BYTES, BodySource.PASSED_ON)] * 8
            assert bench.origin.given[KEY] == len(MODEL_BYTES)
            assert cache.usage().used_bytes == 0

    async def test_other_ranges_are_other_reads(self, bench: Bench) -> None:
        """Readers of different bytes each get theirs, and no byte more is read."""
        await publish(bench)
        async with bench.cache(SETTINGS) as cache:
            ranges = [ByteRange(10, 20), ByteRange(PIECE_BYTES - 1, PIECE_BYTES + 1), ByteRange(7, 7)]
            answers = await asyncio.gather(*(read(cache, FILE, wanted) for wanted in ranges))
            assert [data for data, _ in answers] == [MODEL_BYTES[item.start : item.stop] for item in ranges]
            assert bench.origin.given[KEY] == 12
            assert (await read(cache, "org/bert@1/empty"))[0] == b""

    async def test_a_reader_joins_within_the_first_piece(self, bench: Bench) -> None:
        """Whoever comes before 4 MiB have been passed on gets them from the same read."""
        await publish(bench)
        hold = bench.origin.hold(KEY, ByteRange(PIECE_BYTES // 2, len(MODEL_BYTES)))
        async with bench.cache(SETTINGS) as cache:
            first = asyncio.create_task(read(cache, FILE))
            await eventually(lambda: bench.origin.given[KEY] == PIECE_BYTES // 2)
            second = asyncio.create_task(read(cache, FILE))
            await eventually(lambda: sharing(cache) == 2)
            hold.set()
            assert (await first)[0] == (await second)[0] == MODEL_BYTES
        assert bench.origin.gets[KEY] == 1

    async def test_a_late_reader_reads_for_itself(self, bench: Bench) -> None:
        """Whoever comes later has a read of its own, from the beginning."""
        await publish(bench)
        hold = bench.origin.hold(KEY, ByteRange(2 * PIECE_BYTES, 3 * PIECE_BYTES))
        async with bench.cache(SETTINGS) as cache:
            first = asyncio.create_task(read(cache, FILE))
            await eventually(lambda: bench.origin.given[KEY] == 2 * PIECE_BYTES)
            hold.set()
            second = await read(cache, FILE)
            assert second[0] == (await first)[0] == MODEL_BYTES
        assert bench.origin.gets[KEY] == 2

    async def test_a_slow_reader_stalls_nobody(self, bench: Bench) -> None:
        """A reader that stops is let go of; the others finish, and it goes on by itself at its byte."""
        await publish(bench)
        hold = bench.origin.hold(KEY, ByteRange(PIECE_BYTES // 2, len(MODEL_BYTES)))
        async with bench.cache(SETTINGS) as cache:
            slow = await open_body(cache, FILE)
            parts = slow.parts()
            data = part_bytes(await anext(parts))
            quick = [asyncio.create_task(read(cache, FILE)) for _ in range(3)]
            await eventually(lambda: sharing(cache) == 4)
            hold.set()
            assert [answer[0] for answer in await asyncio.gather(*quick)] == [MODEL_BYTES] * 3
            async for part in parts:
                data += part_bytes(part)
            await slow.close()
            assert data == MODEL_BYTES
        # On a busy machine another one may be slow, too.
        assert bench.origin.gets[KEY] >= 2
        assert bench.origin.given[KEY] < bench.origin.gets[KEY] * len(MODEL_BYTES)

    async def test_a_reader_that_leaves_takes_nobody_with_it(self, bench: Bench) -> None:
        """The reader that began a shared read may go; the read ends with the last."""
        await publish(bench)
        hold = bench.origin.hold(KEY, ByteRange(1024 * 1024, len(MODEL_BYTES)))
        async with bench.cache(SETTINGS) as cache:
            tasks = asyncio.all_tasks()
            first = asyncio.create_task(read(cache, FILE))
            await eventually(lambda: bench.origin.given[KEY])
            second = asyncio.create_task(read(cache, FILE))
            await eventually(lambda: cache.load().bodies == 2)
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            hold.set()
            assert (await second)[0] == MODEL_BYTES
            await eventually(lambda: asyncio.all_tasks() <= tasks)
        assert bench.origin.gets[KEY] == 1

    async def test_one_reader_reads_no_further_than_it_takes(self, bench: Bench) -> None:
        """A reader that stops stops the read of the origin too, so that memory stays bounded."""
        await publish(bench)
        async with bench.cache(SETTINGS) as cache:
            tasks = asyncio.all_tasks()
            body = await open_body(cache, FILE)
            parts = body.parts()
            await anext(parts)
            await asyncio.sleep(0.05)
            assert bench.origin.given[KEY] <= 1024 * 1024
            await parts.aclose()  # type: ignore[attr-defined]
            await body.close()
            await eventually(lambda: asyncio.all_tasks() <= tasks)

    async def test_an_origin_that_fails(self, bench: Bench) -> None:
        """All readers of a shared read get the bytes before the failure, and then the error."""
        await publish(bench)
        bench.origin.cuts.append((KEY, 2 * PIECE_BYTES))
        async with bench.cache(SETTINGS) as cache:
            bodies = [await open_body(cache, FILE) for _ in range(3)]
            for data, error in await asyncio.gather(*(read_to_error(body) for body in bodies)):
                assert isinstance(error, OriginUnreachable)
                assert data == MODEL_BYTES[: len(data)]
            assert (await read(cache, FILE))[0] == MODEL_BYTES

    async def test_a_damaged_piece_is_not_passed_on_whole(self, bench: Bench) -> None:
        """A pass-through ends with an error before it has given all of a piece that is damaged."""
        await publish(bench)
        bench.origin.damages[(KEY, PIECE_BYTES + 5)] = 1
        async with bench.cache(SETTINGS) as cache:
            data, error = await read_to_error(await open_body(cache, FILE, ByteRange(3, len(MODEL_BYTES))))
            assert isinstance(error, IntegrityError)
            assert data[: PIECE_BYTES - 3] == MODEL_BYTES[3:PIECE_BYTES]
            assert len(data) < 2 * PIECE_BYTES - 3
            assert (await read(cache, FILE))[0] == MODEL_BYTES

    async def test_many_reads_at_once_share_the_memory(self, bench: Bench) -> None:
        """Many different passes at once all come to their end though the windows are bounded together."""
        await publish(bench)
        async with bench.cache(SETTINGS) as cache:
            ranges = [ByteRange(start, len(MODEL_BYTES)) for start in range(20)]
            bodies = [await open_body(cache, FILE, wanted) for wanted in ranges for _ in range(2)]
            answers = await asyncio.gather(*(body_bytes(body) for body in bodies))
            for body in bodies:
                await body.close()
            assert answers == [MODEL_BYTES[wanted.start :] for wanted in ranges for _ in range(2)]
