"""A cache whose origin is behind a circuit breaker: what readers get while it is away, and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource, Redirect
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.breaker import BreakerSettings
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import OriginBusy, OriginError, OriginPaused, OriginUnreachable
from hotstart_proxy.origins.guarded import GuardedOrigin
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.disk import DiskStore
from tests.integration.cache.conftest import Bench
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, open_body, read, read_to_error, resolve

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 777, seed=1)
FILES = {"model.safetensors": MODEL_BYTES, "tokenizer.json": b"{}"}
FILE = "org/bert@7/model.safetensors"
SMALL = "org/bert@7/tokenizer.json"
KEY = "org/bert/7/model.safetensors"
SETTINGS = BreakerSettings(failures=3, first_pause_seconds=10, longest_pause_seconds=60)


class Told(NullObserver):
    """Remembers what was told of the origin."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.circuit: list[bool] = []

    def origin_failed(self, kind: str) -> None:
        self.errors.append(kind)

    def circuit_opened(self, is_open: bool) -> None:
        self.circuit.append(is_open)


class Guarded:
    """A bench's cache behind a breaker, with a clock of its own for the breaker."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told = Told()
        self.seconds = 0.0

    @asynccontextmanager
    async def cache(self, settings: CacheSettings | None = None) -> AsyncIterator[Cache]:
        settings = settings or CacheSettings(fill_connections=1)
        tree = TreeOrigin(self.bench.origin, Layout())
        origin = GuardedOrigin(tree, self.told, SETTINGS, lambda: self.seconds)
        async with DiskStore(self.bench.store_root, None) as store:
            async with Cache(origin, store, settings, self.bench.events, self.bench.clock) as cache:
                yield cache

    async def open_circuit(self, cache: Cache) -> None:
        """Take the origin away, and let readers find that out."""
        self.bench.origin.away = True
        for _ in range(SETTINGS.failures):
            with pytest.raises(OriginUnreachable):
                await read(cache, FILE)
        assert self.told.circuit == [True]

    def asked(self) -> int:
        """How many requests the origin has had, those that failed at once not among them."""
        return self.bench.origin.gets.total() + self.bench.origin.reads.total()


@pytest.fixture
async def guarded(bench: Bench) -> Guarded:
    await bench.tree.publish("7", FILES)
    bench.origin = FaultOrigin(bench.tree.origin, can_presign=True)
    return Guarded(bench)


async def test_an_open_circuit_asks_nobody(guarded: Guarded) -> None:
    """After failures in a row the origin is not asked; a miss gets the error at once, and its pause."""
    async with guarded.cache() as cache:
        await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        guarded.bench.origin.away = False
        asked = guarded.asked()
        with pytest.raises(OriginPaused) as raised:
            await read(cache, FILE)
        assert guarded.asked() == asked
        assert raised.value.retry_after_seconds is not None
        assert 5 <= raised.value.retry_after_seconds <= 10
        assert raised.value.failures == 3


async def test_a_busy_origin_is_asked_again(guarded: Guarded) -> None:
    """However often the origin says that it takes no more now, it is not taken for broken."""

    class Busy(TreeOrigin):
        @asynccontextmanager
        async def receive(
            self, blob: VersionBlob, wanted: ByteRange, buffer: memoryview, tier: Tier = Tier.STANDARD
        ) -> AsyncIterator[AsyncIterator[bytes | memoryview]]:
            raise OriginBusy(self.url, "reading", "status 429 (batch-full)")
            yield

    origin = GuardedOrigin(Busy(guarded.bench.origin, Layout()), guarded.told, SETTINGS, lambda: 0.0)
    async with DiskStore(guarded.bench.store_root, None) as store:
        async with Cache(origin, store, CacheSettings(), guarded.bench.events, guarded.bench.clock) as cache:
            for _ in range(2 * SETTINGS.failures):
                with pytest.raises(OriginBusy):
                    await read(cache, FILE)
            assert cache.state().degraded == ()
    assert guarded.told.circuit == []


async def test_an_open_circuit_redirects(guarded: Guarded) -> None:
    """While the circuit is open whoever may be redirected is, without a fill and without the origin."""
    async with guarded.cache() as cache:
        resolved = await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        # Signing asks nobody.
        guarded.bench.origin.away = False
        asked = guarded.asked()
        for file in resolved.manifest.files:
            answer = await cache.read(resolved, file.identity(), ByteRange(0, file.size), may_redirect=True)
            assert isinstance(answer, Redirect)
        assert guarded.asked() == asked


async def test_what_is_here_is_served(guarded: Guarded) -> None:
    """Stored blobs, verified pieces of a fill, and indexes that are old go on being served."""
    async with guarded.cache() as cache:
        await read(cache, SMALL)
        await read(cache, FILE, ByteRange(0, PIECE_BYTES))
        await guarded.open_circuit(cache)
        guarded.bench.pass_seconds(3600)
        await eventually(lambda: guarded.bench.events.outcomes)
        assert await read(cache, "org/bert@latest/tokenizer.json") == (b"{}", BodySource.HIT)
        part = await read(cache, FILE, ByteRange(5, PIECE_BYTES))
        assert part == (MODEL_BYTES[5:PIECE_BYTES], BodySource.FILL)
        with pytest.raises(OriginPaused):
            await read(cache, FILE)


async def test_one_probe_closes_it(guarded: Guarded) -> None:
    """When the pause is over one reader's request is the probe; it gets its bytes, and so do all after it."""
    async with guarded.cache(CacheSettings(fill_connections=4)) as cache:
        await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        guarded.bench.origin.away = False
        guarded.seconds += 10
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        assert guarded.told.circuit == [True, False]
        assert (await read(cache, SMALL))[0] == b"{}"


async def test_a_probe_that_fails_opens_it_for_longer(guarded: Guarded) -> None:
    """A probe that fails begins a longer pause."""
    async with guarded.cache() as cache:
        await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        guarded.seconds += 10
        with pytest.raises(OriginUnreachable):
            await read(cache, FILE)
        with pytest.raises(OriginPaused) as raised:
            await read(cache, FILE)
        assert raised.value.pause_seconds >= 10
        assert guarded.told.circuit == [True]


async def test_readers_beside_the_probe_do_not_wait(guarded: Guarded) -> None:
    """While the probe hangs, others are answered at once: by a redirect, or by the error."""
    origin = guarded.bench.origin
    async with guarded.cache() as cache:
        resolved = await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        origin.away = False
        hold = origin.hold(KEY, ByteRange(0, len(MODEL_BYTES)))
        guarded.seconds += 10
        probe = asyncio.create_task(read(cache, FILE))
        await eventually(lambda: origin.gets[KEY])
        with pytest.raises(OriginPaused):
            await read(cache, SMALL)
        for file in resolved.manifest.files:
            answer = await cache.read(resolved, file.identity(), ByteRange(0, file.size), may_redirect=True)
            assert isinstance(answer, Redirect)
        hold.set()
        assert (await probe)[0] == MODEL_BYTES


async def test_a_redirect_may_be_the_probe(guarded: Guarded) -> None:
    """A reader that can be redirected does not wait for the probe; its fill is the probe all the same."""
    async with guarded.cache() as cache:
        resolved = await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        guarded.bench.origin.away = False
        guarded.seconds += 10
        item = resolved.manifest.files[0].identity()
        answer = await cache.read(resolved, item, ByteRange(0, item.size), may_redirect=True)
        assert isinstance(answer, Redirect)
        await eventually(lambda: guarded.told.circuit == [True, False])
        await eventually(lambda: guarded.bench.events.outcomes)
        assert (await read(cache, FILE))[1] is BodySource.HIT


async def test_a_fill_whose_probe_is_under_way_waits_for_it(guarded: Guarded) -> None:
    """Other requests of the probing reader's own fill wait for what the probe shows instead of failing it."""
    origin = guarded.bench.origin
    async with guarded.cache(CacheSettings(fill_connections=4)) as cache:
        await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        origin.away = False
        hold = origin.hold(KEY, ByteRange(0, 2 * PIECE_BYTES))
        guarded.seconds += 10
        reader = asyncio.create_task(read(cache, FILE))
        await eventually(lambda: origin.gets[KEY])
        assert origin.gets[KEY] == 1
        hold.set()
        assert (await reader)[0] == MODEL_BYTES


async def test_a_probe_whose_reader_leaves(guarded: Guarded) -> None:
    """A probe that is cancelled shows nothing: the next request is the probe."""
    origin = guarded.bench.origin
    origin.away = True
    tree = TreeOrigin(origin, Layout())
    guard = GuardedOrigin(tree, guarded.told, SETTINGS, lambda: guarded.seconds)
    for _ in range(SETTINGS.failures):
        with pytest.raises(OriginUnreachable):
            await guard.models()
    origin.away = False
    origin.silent = asyncio.Event()
    guarded.seconds += 10
    probe = asyncio.create_task(guard.index("org/bert", 0, None))
    await eventually(lambda: origin.reads.total())
    with pytest.raises(OriginPaused):
        await guard.models()
    probe.cancel()
    await asyncio.wait([probe])
    assert await guard.models() == ("org/bert",)
    assert guarded.told.circuit == [True, False]
    assert guarded.told.errors == ["unreachable"] * 3 + ["paused"]


async def test_documents_do_not_speak_for_files(guarded: Guarded) -> None:
    """When files fail, indexes go on being read, and do not close the circuit; a file that arrives does."""
    async with guarded.cache() as cache:
        await resolve(cache, FILE)
        await guarded.open_circuit(cache)
        guarded.bench.origin.away = False
        for _ in range(3):
            guarded.bench.pass_seconds(3600)
            asked = guarded.bench.origin.reads.total()
            await resolve(cache, FILE)
            assert guarded.bench.origin.reads.total() > asked
        with pytest.raises(OriginPaused):
            await read(cache, FILE)
        assert guarded.told.circuit == [True]
        guarded.seconds += 10
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        assert guarded.told.circuit == [True, False]


async def test_files_are_not_asked_for_where_documents_fail(guarded: Guarded) -> None:
    """When documents fail in a row no file is asked for either; one that arrives speaks for documents too."""
    origin = guarded.bench.origin
    async with guarded.cache() as cache:
        await resolve(cache, FILE)
        origin.away = True
        for _ in range(SETTINGS.failures):
            guarded.bench.pass_seconds(3600)
            await resolve(cache, FILE)
        await eventually(lambda: guarded.told.circuit)
        origin.away = False
        with pytest.raises(OriginPaused):
            await read(cache, FILE)
        assert not origin.gets
        guarded.seconds += 10
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        assert guarded.told.circuit == [True, False]


async def test_answers_of_any_kind_keep_it_closed(guarded: Guarded) -> None:
    """A missing model, a replaced object and a denial are answers: they never open the circuit."""
    path = guarded.bench.tree.root / KEY
    async with guarded.cache() as cache:
        await resolve(cache, FILE)
        path.unlink()
        path.write_bytes(MODEL_BYTES)
        for _ in range(2 * SETTINGS.failures):
            _, error = await read_to_error(await open_body(cache, FILE))
            assert isinstance(error, OriginError)
            await eventually(lambda: not cache.usage().used_bytes)
    assert guarded.told.circuit == []
    assert set(guarded.told.errors) == {"changed"}
