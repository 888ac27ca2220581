"""Proxies on one Redis tell each other of news, through a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from hotstart_proxy.stores.redis_announcements import CHANNEL, RedisAnnouncements
from hotstart_proxy.stores.redis_urls import parse_redis_url
from tests.integration.cache.reading import eventually
from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.valkey import ValkeyCluster, ValkeyServer

PAUSE_SECONDS = 0.05


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


class Heard:
    """What a channel said, gathered by a task."""

    def __init__(self, channel: RedisAnnouncements) -> None:
        self.models: asyncio.Queue[str] = asyncio.Queue()
        self.troubles: list[str | None] = []
        self._channel = channel

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.models.get()

    async def gather(self) -> None:
        async for model in self._channel.listen(self.troubles.append):
            self.models.put_nowait(model)


def channel(url: str, quiet_seconds: float = 15.0) -> RedisAnnouncements:
    place = parse_redis_url(url)
    return RedisAnnouncements(place, quiet_seconds=quiet_seconds, first_pause_seconds=PAUSE_SECONDS)


@asynccontextmanager
async def heard(url: str, quiet_seconds: float = 15.0) -> AsyncIterator[Heard]:
    """Listen, from the moment that the channel is subscribed to."""
    told = Heard(channel(url, quiet_seconds))
    task = asyncio.create_task(told.gather())
    try:
        await eventually(lambda: told.troubles)
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_one_announces_the_others_hear(server: ValkeyServer) -> None:
    """A model that one proxy announces is heard by all that listen, over TCP and over a Unix socket."""
    publisher = channel(server.url)
    async with heard(server.url) as first, heard(f"unix://{server.unix}") as second:
        for model in ("org/bert", "org/gpt"):
            await publisher.publish(model)
        for told in (first, second):
            assert [await told.next(), await told.next()] == ["org/bert", "org/gpt"]
            assert set(told.troubles) == {None}
    await publisher.close()


async def test_what_names_no_model_is_dropped(server: ValkeyServer) -> None:
    """Whatever anybody writes into the channel, only a model's name in its one spelling gets through."""
    async with heard(server.url) as told:
        with server.client() as client:
            for message in (
                b"",
                b"bert",
                b"../x",
                b"org/bert@7",
                b"a/b/c",
                b"\xff\xfe",
                b"org/" + b"b" * 10_000,
            ):
                client.publish(CHANNEL, message)
            client.publish(CHANNEL, "org/bert")
        assert await told.next() == "org/bert"
        assert told.models.empty()


async def test_a_server_that_is_restarted(server: ValkeyServer) -> None:
    """A lost connection is told, and made again by itself, in publishing as in listening."""
    publisher = channel(server.url)
    async with heard(server.url) as told:
        await publisher.publish("org/bert")
        assert await told.next() == "org/bert"
        server.kill()
        await eventually(lambda: told.troubles[-1])
        await publisher.publish("org/lost")
        await asyncio.to_thread(server.start)
        await eventually(lambda: told.troubles[-1] is None)
        await publisher.publish("org/gpt")
        assert await told.next() == "org/gpt"
    await publisher.close()


async def test_a_quiet_connection_is_tried(server: ValkeyServer) -> None:
    """A connection on which nothing is said is asked whether it is one, and serves on."""
    publisher = channel(server.url)
    async with heard(server.url, quiet_seconds=0.05) as told:
        await eventually(lambda: len(told.troubles) > 5)
        assert set(told.troubles) == {None}
        await publisher.publish("org/bert")
        assert await told.next() == "org/bert"
    await publisher.close()


async def test_a_cluster() -> None:
    """In a cluster what is announced at one node is heard at another."""
    with ValkeyCluster() as cluster:
        publisher = channel(cluster.url)
        async with heard(cluster.nodes[-1].url) as told:
            await publisher.publish("org/bert")
            assert await told.next() == "org/bert"
        await publisher.close()
