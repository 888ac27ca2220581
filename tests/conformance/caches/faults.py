"""What readers get when origin or bytes are at fault, whatever the stores."""

from __future__ import annotations

import asyncio

import pytest

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import Body, BodySource, CacheClosed, Redirect
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.origins.base import ObjectChanged, OriginUnreachable
from tests.conformance.caches.bench import Bench
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import body_bytes, eventually, open_body, read, read_to_error, resolve

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 777, seed=1)


FILES = {"model.safetensors": MODEL_BYTES}


FILE = "org/bert@7/model.safetensors"


KEY = "org/bert/7/model.safetensors"


class FaultSuite:
    """See ``suite.CacheSuite``."""

    async def test_a_damaged_piece_is_fetched_again(self, bench: Bench) -> None:
        """A piece that arrives damaged reaches no reader: it is fetched again, and only it."""
        await bench.tree.publish("7", FILES)
        bench.origin.damages[(KEY, PIECE_BYTES + 3)] = 2
        async with bench.cache() as cache:
            assert (await read(cache, FILE))[0] == MODEL_BYTES
            await eventually(lambda: bench.events.outcomes)
        assert bench.events.outcomes == ["complete"]
        assert bench.events.refetches == 2
        assert bench.origin.given[KEY] == len(MODEL_BYTES) + 2 * PIECE_BYTES

    async def test_an_object_that_stays_damaged(self, bench: Bench) -> None:
        """After a bounded number of tries the readers get the error, and no byte of the damaged piece."""
        await bench.tree.publish("7", FILES)
        bench.origin.damages[(KEY, PIECE_BYTES + 3)] = 1000
        async with bench.cache() as cache:
            data, error = await read_to_error(await open_body(cache, FILE))
            assert isinstance(error, IntegrityError)
            assert error.what == "piece 1 of model.safetensors"
            assert data == MODEL_BYTES[:PIECE_BYTES]
            other = ByteRange(2 * PIECE_BYTES, len(MODEL_BYTES))
            assert (await read(cache, FILE, other))[0] == MODEL_BYTES[other.start :]

    async def test_a_wrong_whole_is_never_committed(self, bench: Bench) -> None:
        """If all pieces are right but the whole has another sha256, nothing is kept."""
        manifest = await bench.tree.publish("7", FILES, wrong_sha256=True)
        async with bench.cache() as cache:
            await read(cache, FILE)
            await eventually(lambda: bench.events.outcomes)
            await eventually(lambda: cache.usage().used_bytes == 0)
        assert bench.events.outcomes == ["damaged"]
        assert not bench.backing.holds(manifest.files[0].id)

    async def test_an_origin_that_fails_midway(self, bench: Bench) -> None:
        """Waiting readers get the error, whoever came later another try; verified pieces are fetched once."""
        await bench.tree.publish("7", FILES)
        bench.origin.cuts.append((KEY, 3 * PIECE_BYTES))
        async with bench.cache() as cache:
            answers = await asyncio.gather(*(read(cache, FILE) for _ in range(3)), return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            assert failed
            assert all(isinstance(error, OriginUnreachable) for error in failed)
            assert {answer[0] for answer in answers if isinstance(answer, tuple)} <= {MODEL_BYTES}
            assert (await read(cache, FILE))[0] == MODEL_BYTES
            await eventually(lambda: bench.events.outcomes)
            assert (await read(cache, FILE))[1] is BodySource.HIT
        assert bench.origin.given[KEY] <= len(MODEL_BYTES) + PIECE_BYTES

    async def test_a_restart_resumes(self, bench: Bench) -> None:
        """A fill cut short by the end of the process goes on from its verified pieces in the next."""
        await bench.tree.publish("7", FILES)
        bench.origin.hold(KEY, ByteRange(2 * PIECE_BYTES, len(MODEL_BYTES)))
        async with bench.cache() as cache:
            task = asyncio.create_task(read(cache, FILE))
            resolved = await resolve(cache, "org/bert@7")
            await eventually(lambda: sum(cache.cached(resolved).values()) == 2 * PIECE_BYTES)
        with pytest.raises(CacheClosed):
            await task
        given = bench.origin.given[KEY]
        assert given == 2 * PIECE_BYTES
        bench.origin.holds.clear()
        async with bench.cache() as cache:
            assert (await read(cache, FILE))[0] == MODEL_BYTES
        assert bench.origin.given[KEY] == len(MODEL_BYTES)

    async def test_an_object_replaced_mid_fill(self, bench: Bench) -> None:
        """No reader gets bytes of two objects: the fill ends with an error that says so, nothing is kept."""
        await bench.tree.publish("7", FILES)
        other = some_bytes(len(MODEL_BYTES), seed=2)
        path = bench.tree.root / KEY
        hold = bench.origin.hold(KEY, ByteRange(PIECE_BYTES, len(MODEL_BYTES)))

        def replace() -> None:
            if not hold.is_set():
                path.unlink()
                path.write_bytes(other)
                hold.set()

        async with bench.cache(CacheSettings(fill_connections=1)) as cache:
            data, error = await read_to_error(await open_body(cache, FILE), replace)
            assert isinstance(error, ObjectChanged)
            assert data
            assert MODEL_BYTES.startswith(data)
            await eventually(lambda: bench.events.outcomes)
            assert bench.events.outcomes == ["changed"]
            await eventually(lambda: cache.usage().used_bytes == 0)
            with pytest.raises(ObjectChanged):
                await read(cache, FILE)

    async def test_a_replaced_adopted_file_becomes_another(self, bench: Bench) -> None:
        """Plain files that are replaced are adopted anew: later readers get the new bytes, and only those."""
        path = bench.tree.root / KEY
        path.parent.mkdir(parents=True)
        path.write_bytes(MODEL_BYTES)
        bench.clock.seconds = path.stat().st_mtime + 120
        async with bench.cache() as cache:
            assert (await read(cache, FILE))[0] == MODEL_BYTES
            await eventually(lambda: bench.events.outcomes)
            first = await resolve(cache, "org/bert@7")
            await eventually(lambda: any("/pieces/" in name for name in bench.backing.documents()))
            other = some_bytes(len(MODEL_BYTES), seed=2)
            path.unlink()
            path.write_bytes(other)
            bench.pass_seconds(3600)
            assert (await read(cache, FILE))[0] == other
            second = await resolve(cache, "org/bert@7")
            assert first.manifest.files[0].id != second.manifest.files[0].id
            await eventually(lambda: bench.events.evictions)
            assert bench.events.evictions == [("retired", len(MODEL_BYTES))]

    async def test_a_miss_can_be_redirected(self, bench: Bench) -> None:
        """With on_miss=redirect a reader who may be redirected is, while the fill runs for the next one."""
        await bench.tree.publish("7", FILES)
        bench.origin = FaultOrigin(bench.tree.origin, can_presign=True)
        async with bench.cache(CacheSettings(on_miss="redirect")) as cache:
            resolved = await resolve(cache, "org/bert@7")
            representation = resolved.manifest.files[0].identity()
            wanted = ByteRange(0, representation.size)
            answer = await cache.read(resolved, representation, wanted, may_redirect=True)
            assert isinstance(answer, Redirect)
            assert answer.url == f"https://origin.invalid/{KEY}?signed"
            assert "signed" not in repr(answer)
            await eventually(lambda: bench.events.outcomes)
            body = await cache.read(resolved, representation, wanted, may_redirect=True)
            assert isinstance(body, Body)
            assert body.source is BodySource.HIT
            await body.close()
        assert bench.events.redirects == 1

    async def test_a_reader_that_may_not_be_redirected_streams(self, bench: Bench) -> None:
        """With on_miss=redirect whoever may not be redirected is served from the fill."""
        await bench.tree.publish("7", FILES)
        bench.origin = FaultOrigin(bench.tree.origin, can_presign=True)
        async with bench.cache(CacheSettings(on_miss="redirect")) as cache:
            assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)

    async def test_fallback_names_every_representation(self, bench: Bench) -> None:
        """A fallback has a URL for every representation, and is None where the origin cannot sign."""
        await bench.tree.publish("7", {**FILES, "tokenizer.json": b"{}"})
        async with bench.cache() as cache:
            assert await cache.fallback(await resolve(cache, "org/bert"), 60) is None
        bench.origin = FaultOrigin(bench.tree.origin, can_presign=True)
        async with bench.cache() as cache:
            fallback = await cache.fallback(await resolve(cache, "org/bert"), 60)
            assert fallback is not None
            assert fallback.urls.keys() == {"model.safetensors", "tokenizer.json"}
            assert fallback.expires_in_seconds == 60

    async def test_closing_ends_what_is_under_way(self, bench: Bench) -> None:
        """Closing the cache ends its waiting readers with an error and leaves no task behind."""
        await bench.tree.publish("7", FILES)
        bench.origin.hold(KEY, ByteRange(0, len(MODEL_BYTES)))
        async with bench.cache() as cache:
            body = await open_body(cache, FILE)
            task = asyncio.create_task(body_bytes(body))
            await eventually(lambda: bench.origin.gets[KEY])
        with pytest.raises(CacheClosed):
            await task
        await body.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
