"""Readiness waits for what it was told to wait for, and no longer than it was told."""

from __future__ import annotations

import asyncio

from hotstart.wire.layout import file_key
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.settings import CacheSettings
from tests.integration.cache.conftest import Bench
from tests.integration.cache.following import Followed, followed
from tests.integration.cache.published_tree import some_bytes
from tests.integration.cache.reading import eventually, read

WEIGHTS = some_bytes(100_000, seed=1)
KEY = file_key("org/bert", "1", "model.safetensors")


async def publish(bench: Bench, version: str = "1") -> None:
    await bench.tree.publish(version, {"model.safetensors": WEIGHTS, "tokenizer.json": version.encode()})
    await bench.tree.alias("prod", version)


async def ready(proxy: Followed) -> None:
    """Wait until readiness waits for nothing."""
    await eventually(lambda: not proxy.awaited.state().warming)


async def test_nothing_to_wait_for(bench: Bench) -> None:
    """A proxy that was told to wait for nothing is ready at once."""
    async with followed(bench) as proxy:
        assert proxy.awaited.state().warming == ()
        assert proxy.heard.missing == [(0, False)]


async def test_ready_when_it_is_filled(bench: Bench) -> None:
    """Readiness waits until what keep names of the reference is here, and is told what is missing."""
    await publish(bench)
    held = bench.origin.hold(KEY, ByteRange(0, 1))
    async with followed(bench, ready_when=["org/bert@prod"]) as proxy:
        await eventually(lambda: bench.origin.gets[KEY])
        assert proxy.awaited.state().warming == ("org/bert@prod is not here: version 1 is being filled",)
        held.set()
        await ready(proxy)
        assert await read(proxy.cache, "org/bert@prod/model.safetensors") == (WEIGHTS, BodySource.HIT)
        assert bench.origin.given[KEY] == len(WEIGHTS)
        assert proxy.heard.missing[-1] == (0, False)
        assert proxy.cache.state().degraded == ()


async def test_a_reference_that_does_not_exist_yet_is_waited_for(bench: Bench) -> None:
    """A model that is published later makes the proxy ready then."""
    async with followed(bench, ready_when=["org/bert@prod", "org/other"]) as proxy:
        await eventually(lambda: "no model org/bert" in str(proxy.awaited.state().warming))
        await publish(bench)
        await eventually(lambda: len(proxy.awaited.state().warming) == 1)
        await bench.tree.publish("1", {"config.json": b"{}"}, "org/other")
        await ready(proxy)


async def test_after_the_deadline_it_is_ready_and_says_so(bench: Bench) -> None:
    """After the deadline nothing is waited for; what is missing is degraded until it is here."""
    async with followed(bench, ready_when=["org/bert@prod"], within_seconds=0.2) as proxy:
        await ready(proxy)
        (reason,) = proxy.awaited.state().degraded
        assert reason == "--ready-when: org/bert@prod is not here after 0.2 s: no model org/bert"
        assert proxy.heard.missing[-1] == (1, True)
        await publish(bench)
        await eventually(lambda: not proxy.awaited.state().degraded)
        assert proxy.heard.missing[-1] == (0, True)
        assert (await read(proxy.cache, "org/bert@1/model.safetensors"))[1] is BodySource.HIT


async def test_an_origin_that_is_away(bench: Bench) -> None:
    """An origin that is away at the start is waited for until the deadline; what is here needs no origin."""
    await publish(bench)
    bench.origin.away = True
    async with followed(bench, ready_when=["org/bert@prod"], within_seconds=0.2) as proxy:
        await ready(proxy)
        state = proxy.awaited.state()
        assert not state.can_serve
        assert any(reason.startswith("--ready-when: org/bert@prod") for reason in state.degraded)
        bench.origin.away = False
        await eventually(lambda: not proxy.awaited.state().degraded)
    bench.origin.away = True
    async with followed(bench, ready_when=["org/bert@prod"]) as proxy:
        await ready(proxy)
        assert proxy.awaited.state().can_serve


async def test_ready_once_is_ready(bench: Bench) -> None:
    """An alias that moves after the start makes no proxy unready."""
    await publish(bench)
    async with followed(bench, ready_when=["org/bert@prod"]) as proxy:
        await ready(proxy)
        bench.origin.hold(file_key("org/bert", "2", "tokenizer.json"), ByteRange(0, 1))
        await publish(bench, "2")
        await eventually(lambda: bench.origin.gets[file_key("org/bert", "2", "tokenizer.json")])
        assert proxy.awaited.state().warming == ()


async def test_a_version_that_is_not_kept(bench: Bench) -> None:
    """A reference that retention does not keep is never here, and readiness says why."""
    await publish(bench, "1")
    await publish(bench, "2")
    settings = CacheSettings(keep_versions=1)
    async with followed(bench, ready_when=["org/bert@1"], within_seconds=0.2, settings=settings) as proxy:
        await ready(proxy)
        assert "not among the versions that are kept" in proxy.awaited.state().degraded[0]


async def test_an_alias_that_moves_during_the_fill(bench: Bench) -> None:
    """What a reference has come to mean while it was filled is filled as well before it counts as here."""
    await publish(bench)
    held = bench.origin.hold(KEY, ByteRange(0, 1))
    async with followed(bench, ready_when=["org/bert@prod"]) as proxy:
        await eventually(lambda: bench.origin.gets[KEY])
        await publish(bench, "2")
        await proxy.cache.poll("org/bert")
        held.set()
        await ready(proxy)
        assert (await read(proxy.cache, "org/bert@2/tokenizer.json"))[1] is BodySource.HIT


async def test_the_end_while_it_waits(bench: Bench) -> None:
    """A proxy that ends while it waits ends at once."""
    await publish(bench)
    bench.origin.hold(KEY, ByteRange(0, 1))
    async with followed(bench, ready_when=["org/bert@prod", "org/none"]):
        await eventually(lambda: bench.origin.gets[KEY])
        await asyncio.sleep(0)
