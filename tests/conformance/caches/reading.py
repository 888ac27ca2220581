"""Hits, misses, and what a reader sees of a fill, whatever the stores."""

from __future__ import annotations

import asyncio
import os

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from hotstart_proxy.cache.answers import BodySource, NotFound
from tests.conformance.caches.bench import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read, resolve

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 12345)


FILES = {"model.safetensors": MODEL_BYTES, "tokenizer.json": b"{}", "empty": b""}


KEY = "org/bert/7/model.safetensors"


def _is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


class ReadingSuite:
    """See ``suite.CacheSuite``."""

    async def test_a_miss_then_a_hit(self, bench: Bench) -> None:
        """The first read comes from a fill, the next from the store, and the origin gives one copy."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            assert await read(cache, "org/bert@7/model.safetensors") == (MODEL_BYTES, BodySource.FILL)
            await eventually(lambda: bench.events.outcomes)
            assert await read(cache, "org/bert@7/model.safetensors") == (MODEL_BYTES, BodySource.HIT)
            assert cache.cached(await resolve(cache, "org/bert@7")) == {"model.safetensors": len(MODEL_BYTES)}
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_an_empty_file(self, bench: Bench) -> None:
        """A file without bytes is read and committed like any other."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            assert (await read(cache, "org/bert@7/empty"))[0] == b""
            await eventually(lambda: bench.events.outcomes)
            assert await read(cache, "org/bert@7/empty") == (b"", BodySource.HIT)

    async def test_64_readers_cost_one_copy(self, bench: Bench) -> None:
        """However many read a cold file at once, in whole or in part, the origin gives each byte once."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            ranges = [ByteRange(start * 64 * 1024, len(MODEL_BYTES)) for start in range(64)]
            answers = await asyncio.gather(
                *(read(cache, "org/bert@7/model.safetensors", wanted) for wanted in ranges)
            )
        for wanted, (data, _) in zip(ranges, answers, strict=True):
            assert data == MODEL_BYTES[wanted.start : wanted.stop]
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_the_end_of_a_cold_file_does_not_wait_for_its_start(self, bench: Bench) -> None:
        """A range far ahead is fetched first, while the start is still held back by the origin."""
        await bench.tree.publish("7", FILES)
        hold = bench.origin.hold(KEY, ByteRange(0, PIECE_BYTES))
        async with bench.cache() as cache:
            first = asyncio.create_task(read(cache, "org/bert@7/model.safetensors"))
            end = ByteRange(len(MODEL_BYTES) - 1000, len(MODEL_BYTES))
            assert (await read(cache, "org/bert@7/model.safetensors", end))[0] == MODEL_BYTES[-1000:]
            assert not first.done()
            hold.set()
            assert (await first)[0] == MODEL_BYTES
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_only_what_is_asked_for_is_fetched(self, bench: Bench) -> None:
        """A fill fetches the union of what was asked, rounded to pieces, and holds it for the next reader."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            one = ByteRange(PIECE_BYTES + 5, PIECE_BYTES + 10)
            for _ in range(2):
                data, _ = await read(cache, "org/bert@7/model.safetensors", one)
                assert data == MODEL_BYTES[one.start : one.stop]
            assert bench.origin.given[KEY] == PIECE_BYTES
            assert cache.cached(await resolve(cache, "org/bert@7")) == {"model.safetensors": PIECE_BYTES}
            await read(cache, "org/bert@7/model.safetensors")
            assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_a_reader_streams_before_the_fill_ends(self, bench: Bench) -> None:
        """The first pieces are handed out while the last is still held back by the origin."""
        await bench.tree.publish("7", FILES)
        hold = bench.origin.hold(KEY, ByteRange(3 * PIECE_BYTES, len(MODEL_BYTES)))
        async with bench.cache() as cache:
            body = await open_body(cache, "org/bert@7/model.safetensors")
            data = b""
            async for part in body.parts():
                data += part_bytes(part)
                if len(data) >= 2 * PIECE_BYTES:
                    hold.set()
            await body.close()
            assert data == MODEL_BYTES

    async def test_a_reader_that_goes_away_leaves_a_warm_blob(self, bench: Bench) -> None:
        """What was asked for is filled to its end though its only reader has left."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            body = await open_body(cache, "org/bert@7/model.safetensors")
            await body.close()
            await eventually(lambda: bench.events.outcomes)
            assert (await read(cache, "org/bert@7/model.safetensors"))[1] is BodySource.HIT

    async def test_cancelled_readers_leak_no_descriptors(self, bench: Bench) -> None:
        """Readers that are cancelled at any point leave no open file behind."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            hold = bench.origin.hold(KEY, ByteRange(PIECE_BYTES, len(MODEL_BYTES)))
            tasks = [asyncio.create_task(read(cache, "org/bert@7/model.safetensors")) for _ in range(20)]
            await eventually(lambda: bench.origin.given[KEY])
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            hold.set()
            await eventually(lambda: bench.events.outcomes)
            await read(cache, "org/bert@7/model.safetensors")
        await asyncio.get_running_loop().shutdown_default_executor()
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        assert not [name for name in names if str(bench.store_root) in name]

    async def test_idle_fills_are_let_go(self, bench: Bench) -> None:
        """Of many files of which a little was read only some stay open, and all can be read on."""
        files = {f"file-{number:02}": some_bytes(PIECE_BYTES + 10, seed=number) for number in range(20)}
        await bench.tree.publish("7", files)
        start, rest = ByteRange(0, 10), ByteRange(PIECE_BYTES, PIECE_BYTES + 10)
        async with bench.cache() as cache:
            for path, data in files.items():
                assert (await read(cache, f"org/bert@7/{path}", start))[0] == data[:10]
            assert bench.events.outcomes == ["closed"] * 3
            for path, data in files.items():
                assert (await read(cache, f"org/bert@7/{path}", rest))[0] == data[-10:]
                assert (await read(cache, f"org/bert@7/{path}", start))[0] == data[:10]
        assert set(bench.origin.given.values()) == {PIECE_BYTES + 10}

    async def test_what_does_not_exist(self, bench: Bench) -> None:
        """A missing model, version and file each say what there is instead."""
        await bench.tree.publish("7", FILES)
        async with bench.cache() as cache:
            with pytest.raises(NotFound, match="no model org/gpt"):
                await cache.resolve(parse_reference("org/gpt"))
            with pytest.raises(NotFound, match="no version org/bert@8; there is @7"):
                await cache.resolve(parse_reference("org/bert@8"))
            with pytest.raises(NotFound, match="no file org/bert@7/x; there is empty"):
                await cache.resolve(parse_reference("org/bert@7/x"))
