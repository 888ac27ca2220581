"""A cache on a real Redis that forgets, hangs, dies and comes back: every reader gets the right bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hotstart.wire.digests import sha256_id
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import Body, BodySource
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_keys import blob_key, chunk_key
from hotstart_proxy.stores.redis_urls import parse_redis_url
from tests.integration.cache.conftest import Bench
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read
from tests.support.deadlines import DEADLINE_SECONDS, POLL_SECONDS, TIME_SCALE
from tests.support.valkey import ValkeyServer

MODEL_BYTES = some_bytes(9 * PIECE_BYTES + 12345)
CONTENT_ID = sha256_id(MODEL_BYTES)
FILES = {"model.safetensors": MODEL_BYTES}
MODEL = "org/bert@7/model.safetensors"
KEY = "org/bert/7/model.safetensors"


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be killed."""
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[Any]:
    """A way around the store."""
    with server.client() as open_client:
        yield open_client


def store(server: ValkeyServer, budget_bytes: int = 1 << 30, **options: float) -> RedisStore:
    return RedisStore(parse_redis_url(server.url), budget_bytes, **options)


async def some_parts(body: Body, count: int) -> tuple[bytes, Any]:
    """Read until so many bytes are there; return them and the iterator of the rest."""
    parts = body.parts()
    data = b""
    async for part in parts:
        data += part_bytes(part)
        if len(data) >= count:
            break
    return data, parts


async def rest_of(parts: Any) -> bytes:
    return b"".join([part_bytes(part) async for part in parts])


async def test_readers_of_all_proxies_cost_one_copy(bench: Bench, server: ValkeyServer) -> None:
    """64 cold readers over three caches that share a Redis get the bytes right; the origin gives one copy."""
    whole = MODEL_BYTES[: 3 * PIECE_BYTES + 500]
    await bench.tree.publish("7", {"model.safetensors": whole})
    async with AsyncExitStack() as stack:
        caches = [await stack.enter_async_context(bench.cache(opening=store(server))) for _ in range(3)]
        # Every second one begins near the end, so that the caches fetch from several places at once.
        starts = [100_000 * number if number % 2 else len(whole) - 600_000 for number in range(64)]
        wanted = [(caches[number % 3], ByteRange(start, len(whole))) for number, start in enumerate(starts)]
        answers = await asyncio.gather(*(read(cache, MODEL, part) for cache, part in wanted))
        for (data, _), (_, part) in zip(answers, wanted, strict=True):
            assert data == whole[part.start :]
        await eventually(lambda: bench.events.outcomes == ["complete"] * 3)
        for cache in caches:
            assert await read(cache, MODEL) == (whole, BodySource.HIT)
            assert cache.usage().used_bytes == len(whole)
    assert bench.origin.given[KEY] == len(whole)


@pytest.mark.parametrize("damage", ["gone", "flipped", "short"])
async def test_a_lost_chunk_is_fetched_alone(
    bench: Bench, server: ValkeyServer, client: Any, damage: str
) -> None:
    """A reader that comes upon a lost chunk gets the right bytes; the origin gives that piece once."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
    for piece in (2, 6):
        key = chunk_key(CONTENT_ID, piece)
        match damage:
            case "gone":
                client.delete(key)
            case "flipped":
                client.setrange(key, 1000, bytes([client.getrange(key, 1000, 1000)[0] ^ 1]))
            case "short":
                client.set(key, b"short")
    async with bench.cache(opening=store(server, refresh_seconds=3600)) as cache:
        answers = await asyncio.gather(*(read(cache, MODEL) for _ in range(4)))
        assert all(data == MODEL_BYTES for data, _ in answers)
        await eventually(lambda: CONTENT_ID in cache._store.blobs())
        assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.HIT)
        assert cache.state().degraded == ()
        assert cache.usage().used_bytes == len(MODEL_BYTES)
    assert bench.origin.given[KEY] == len(MODEL_BYTES) + 2 * PIECE_BYTES


async def test_a_small_range_of_a_damaged_chunk(bench: Bench, server: ValkeyServer, client: Any) -> None:
    """No byte of a damaged chunk is released, also where the damage lies outside what was asked."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
    key = chunk_key(CONTENT_ID, 3)
    client.setrange(key, 4_000_000, b"\0" * 100)
    client.setrange(key, 10, b"\0")
    async with bench.cache(opening=store(server)) as cache:
        wanted = ByteRange(3 * PIECE_BYTES + 5, 3 * PIECE_BYTES + 15)
        data, _ = await read(cache, MODEL, wanted)
        assert data == MODEL_BYTES[wanted.start : wanted.stop]
        assert bench.events.heals == 1


@pytest.mark.parametrize("what", ["all", "records", "chunks", "budget"])
async def test_keys_vanish_under_a_reader(bench: Bench, server: ValkeyServer, client: Any, what: str) -> None:
    """A reader in the middle of a blob whose keys vanish gets the right bytes; the store heals."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
    async with bench.cache(opening=store(server)) as cache:
        body = await open_body(cache, MODEL)
        data, parts = await some_parts(body, 100)
        pattern = {"all": "*", "records": "hs1:b:*", "chunks": "hs1:c:*", "budget": "hs1:u:*"}[what]
        client.delete(*client.keys(pattern))
        assert data + await rest_of(parts) == MODEL_BYTES
        await body.close()
        assert (await read(cache, MODEL))[0] == MODEL_BYTES
        await eventually(lambda: CONTENT_ID in cache._store.blobs())
        assert (await read(cache, MODEL)) == (MODEL_BYTES, BodySource.HIT)
        await cache._store.drop_partials(3600)
        assert cache.usage().used_bytes == len(MODEL_BYTES)
        assert cache.state().degraded == ()


async def test_a_flush_in_the_middle_of_a_fill(bench: Bench, server: ValkeyServer, client: Any) -> None:
    """Readers of a fill whose keys are all flushed get the right bytes, and the next reader fills again."""
    await bench.tree.publish("7", FILES)
    hold = bench.origin.hold(KEY, ByteRange(6 * PIECE_BYTES, 7 * PIECE_BYTES))
    async with bench.cache(opening=store(server)) as cache:
        readers = [asyncio.create_task(read(cache, MODEL)) for _ in range(4)]
        await eventually(lambda: client.exists(chunk_key(CONTENT_ID, 1)))
        client.flushall()
        hold.set()
        assert [data for data, _ in await asyncio.gather(*readers)] == [MODEL_BYTES] * 4
        assert (await read(cache, MODEL))[0] == MODEL_BYTES
        await eventually(lambda: CONTENT_ID in cache._store.blobs())
        assert cache.usage().used_bytes == len(MODEL_BYTES)


async def test_redis_is_killed_and_comes_back(bench: Bench, server: ValkeyServer) -> None:
    """While Redis is dead readers get the right bytes and the cache says so; it heals by itself."""
    await bench.tree.publish("7", FILES)
    hold = bench.origin.hold(KEY, ByteRange(6 * PIECE_BYTES, 7 * PIECE_BYTES))
    async with bench.cache(opening=store(server)) as cache:
        reader = asyncio.create_task(read(cache, MODEL))
        await eventually(lambda: bench.origin.given[KEY] >= 3 * PIECE_BYTES)
        server.kill()
        hold.set()
        assert (await reader)[0] == MODEL_BYTES
        assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.PASSED_ON)
        (reason,) = cache.state().degraded
        assert reason.startswith("the store does not work: Redis does not answer: ")
        assert cache.state().can_serve
        server.start()
        await eventually(lambda: cache.state().degraded == ())
        assert (await read(cache, MODEL))[0] == MODEL_BYTES
        await eventually(lambda: CONTENT_ID in cache._store.blobs())
        assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.HIT)


async def test_redis_dies_under_a_reader_of_a_blob(bench: Bench, server: ValkeyServer) -> None:
    """A reader in the middle of a blob goes on from the origin when Redis dies."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
    async with bench.cache(opening=store(server)) as cache:
        body = await open_body(cache, MODEL)
        data, parts = await some_parts(body, 100)
        server.kill()
        assert data + await rest_of(parts) == MODEL_BYTES
        assert body.source is BodySource.PASSED_ON
        await body.close()


async def test_redis_is_away_at_the_start(bench: Bench, server: ValkeyServer) -> None:
    """A cache whose Redis is away starts, serves from the origin, and fills as soon as Redis is there."""
    await bench.tree.publish("7", FILES)
    server.kill()
    async with bench.cache(opening=store(server)) as cache:
        assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.PASSED_ON)
        assert cache.state().degraded
        server.start()
        await eventually(lambda: not cache.state().degraded)
        assert (await read(cache, MODEL))[0] == MODEL_BYTES
        await eventually(lambda: CONTENT_ID in cache._store.blobs())


async def test_a_redis_that_hangs(bench: Bench, server: ValkeyServer) -> None:
    """A Redis that takes connections and answers nothing costs one time-out, not one each call."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server, timeout_seconds=0.5 * TIME_SCALE)) as cache:
        server.pause()
        try:
            async with asyncio.timeout(10 * TIME_SCALE):
                for _ in range(5):
                    assert (await read(cache, MODEL))[0] == MODEL_BYTES
            assert cache.state().degraded
        finally:
            server.resume()
        await eventually(lambda: not cache.state().degraded)


async def test_redis_evicts_by_itself(bench: Bench) -> None:
    """Where Redis itself evicts below the budget, every reader gets the right bytes."""
    files = {f"{number}.bin": some_bytes(2 * PIECE_BYTES + number, seed=number) for number in range(6)}
    await bench.tree.publish("7", files)
    with ValkeyServer(("--maxmemory", "30mb", "--maxmemory-policy", "allkeys-lru")) as server:
        async with bench.cache(opening=store(server)) as cache:
            for _ in range(2):
                answers = await asyncio.gather(*(read(cache, f"org/bert@7/{name}") for name in files))
                assert [data for data, _ in answers] == list(files.values())
        with server.client() as client:
            assert client.info("stats")["evicted_keys"] > 0


async def test_redis_is_full(bench: Bench) -> None:
    """A Redis that refuses what exceeds its memory leaves readers with the origin, and says what to do."""
    await bench.tree.publish("7", FILES)
    with ValkeyServer(("--maxmemory", "20mb", "--maxmemory-policy", "noeviction")) as server:
        async with bench.cache(opening=store(server)) as cache:
            assert (await read(cache, MODEL))[0] == MODEL_BYTES
            await eventually(lambda: cache.state().degraded)
            (reason,) = cache.state().degraded
            assert "raise its maxmemory, or lower the budget under it" in reason
            await eventually(lambda: cache.usage().used_bytes == 0)
            small = some_bytes(1000)
            await bench.tree.publish("8", {"small.bin": small})
            bench.pass_seconds(60)
            # Redis frees what was removed in its own time; until then it refuses this, too.
            async with asyncio.timeout(DEADLINE_SECONDS):
                while cache.state().degraded:
                    assert (await read(cache, "org/bert@8/small.bin"))[0] == small
                    await asyncio.sleep(POLL_SECONDS)


async def test_a_record_without_chunks_and_chunks_without_a_record(
    bench: Bench, server: ValkeyServer, client: Any
) -> None:
    """A proxy that starts on what a crash or an eviction left forgets the one and reclaims the other."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
    for piece in range(4):
        client.rename(chunk_key(CONTENT_ID, piece), chunk_key("f" * 64, piece))
    async with bench.cache(opening=store(server)) as cache:
        assert client.keys("hs1:c:{fff*") == []
        assert CONTENT_ID not in cache._store.blobs()
        assert (await read(cache, MODEL))[0] == MODEL_BYTES
        await eventually(lambda: CONTENT_ID in cache._store.blobs())
    assert bench.origin.given[KEY] == len(MODEL_BYTES) + 4 * PIECE_BYTES
    client.delete(blob_key(CONTENT_ID))
    async with store(server) as opened:
        assert client.keys("hs1:c:*") == []
        assert opened.usage().used_bytes == 0


async def test_verifying_finds_a_damaged_chunk(bench: Bench, server: ValkeyServer, client: Any) -> None:
    """A verification tells of a blob with a damaged chunk, which is fetched alone before anyone asks."""
    await bench.tree.publish("7", FILES)
    async with bench.cache(opening=store(server)) as cache:
        await read(cache, MODEL)
        await eventually(lambda: bench.events.outcomes == ["complete"])
        assert (await cache.verify()).damaged == []
    key = chunk_key(CONTENT_ID, 2)
    client.setrange(key, 1000, bytes([client.getrange(key, 1000, 1000)[0] ^ 1]))
    # Another process: the first one has chunks that it has just read in memory.
    async with bench.cache(opening=store(server, refresh_seconds=3600)) as cache:
        (found,) = (await cache.verify()).damaged
        assert (found.name, found.reference, found.refill) == (CONTENT_ID, MODEL, True)
        await eventually(lambda: len(bench.events.outcomes) == 2 and CONTENT_ID in cache._store.blobs())
        assert (await cache.verify()).damaged == []
        assert await read(cache, MODEL) == (MODEL_BYTES, BodySource.HIT)
    assert bench.origin.given[KEY] == len(MODEL_BYTES) + PIECE_BYTES
