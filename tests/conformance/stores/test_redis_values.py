"""Large values received past redis-py: real servers, and what only a scripted one answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from hotstart_proxy.stores.redis_link import RedisLink
from hotstart_proxy.stores.redis_urls import RedisPlace, parse_redis_url
from hotstart_proxy.stores.redis_values import Node, RedisValues, Unread
from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.tls import TlsListener
from tests.support.valkey import ValkeyCluster, ValkeyServer

VALUE = os.urandom(4 * 1024 * 1024)


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    """One server for the module."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> ValkeyServer:
    """The module's server, with the value."""
    with running.client() as client:
        client.flushall()
        client.set("k", VALUE)
    return running


def nowhere(key: str) -> Node:
    raise AssertionError(f"{key} was looked for in a cluster")


@asynccontextmanager
async def values(place: RedisPlace) -> AsyncIterator[RedisValues]:
    reader = RedisValues(place, nowhere)
    try:
        yield reader
    finally:
        await reader.close()


def by_unix(server: ValkeyServer, database: int = 0) -> RedisPlace:
    return parse_redis_url(f"unix://{server.unix}?db={database}")


@pytest.mark.parametrize(
    "factory", [uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"]
)
@pytest.mark.parametrize("by", ["tcp", "unix"])
def test_values_arrive_whole(server: ValkeyServer, factory: Any, by: str) -> None:
    """Several at once over few connections, each is what was stored."""
    place = parse_redis_url(server.url) if by == "tcp" else by_unix(server)

    async def work() -> None:
        async with values(place) as reader:
            for _ in range(3):
                answers = await asyncio.gather(*(reader.get("k", len(VALUE)) for _ in range(4)))
                assert all(answer == VALUE for answer in answers)
            with server.client() as client:
                assert len(client.client_list(_type="normal")) <= 4 + 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work())


async def test_no_value_or_another_length_is_none(server: ValkeyServer) -> None:
    """What is not there, or not as long as it should be, is not received; what comes next is."""
    async with values(by_unix(server)) as reader:
        assert await reader.get("missing", 5) is None
        assert await reader.get("k", 5) is None
        assert await reader.get("k", len(VALUE)) == VALUE
        with server.client() as client:
            client.set("empty", b"")
        assert await reader.get("empty", 0) == b""


async def test_a_database_of_its_own(server: ValkeyServer) -> None:
    """The number in the URL is the database that is read."""
    with server.client(db=3) as client:
        client.set("k", b"three")
    async with values(by_unix(server, 3)) as reader:
        assert await reader.get("k", 5) == b"three"


async def test_users_and_tls(server: ValkeyServer, tmp_path: Path) -> None:
    """A user's password and a named authority let in; without them, redis-py is left to say what is wrong."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all")
    with TlsListener(context, server.port) as listener:
        url = f"rediss://reader:{{}}@127.0.0.1:{listener.port}"
        trusting = f"?ssl_ca_certs={tmp_path / 'authority.pem'}"
        async with values(parse_redis_url(url.format("secret") + trusting)) as reader:
            assert await reader.get("k", len(VALUE)) == VALUE
        async with values(parse_redis_url(url.format("secret"))) as reader:
            with pytest.raises(Unread):
                await reader.get("k", len(VALUE))
        async with values(parse_redis_url(url.format("wrong") + trusting)) as reader:
            with pytest.raises(Unread, match="WRONGPASS"):
                await reader.get("k", len(VALUE))


async def test_the_nodes_of_a_cluster() -> None:
    """A value is asked of the node that has its slot, and of redis-py where the slot has moved."""
    with ValkeyCluster() as cluster:
        with cluster.client() as client:
            for number in range(12):
                client.set(f"k{number}", b"value %02d" % number)
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        place = parse_redis_url(f"redis+cluster://{addresses}")

        async def came() -> None:
            """Nothing is to be learned."""

        link = RedisLink(place, DEADLINE_SECONDS, came)
        await link.open()
        try:
            for number in range(12):
                assert await link.value("reading", f"k{number}", 8) == b"value %02d" % number
        finally:
            await link.close()
        wrong = RedisValues(place, lambda key: ("127.0.0.1", cluster.nodes[0].port))
        try:
            refusals = 0
            for number in range(12):
                with contextlib.suppress(Unread):
                    assert await wrong.get(f"k{number}", 8) == b"value %02d" % number
                    continue
                refusals += 1
            assert 0 < refusals < 12
        finally:
            await wrong.close()


async def test_a_restarted_server_is_asked_again(server: ValkeyServer) -> None:
    """A connection that broke while nobody used it costs nobody his value."""

    async def came() -> None:
        """Nothing is to be learned."""

    with ValkeyServer() as own:
        link = RedisLink(by_unix(own), DEADLINE_SECONDS, came)
        await link.open()
        try:
            for _ in range(2):
                with own.client() as client:
                    client.set("k", VALUE)
                assert await link.value("reading", "k", len(VALUE)) == VALUE
                own.kill()
                own.start()
        finally:
            await link.close()


async def test_a_cancelled_question_is_answered_to_nobody(server: ValkeyServer) -> None:
    """Whoever gives up leaves no half-read connection to the next one."""
    with server.client() as client:
        client.set("other", bytes(len(VALUE)))
    async with values(by_unix(server)) as reader:
        await reader.get("k", len(VALUE))
        for _ in range(5):
            task = asyncio.create_task(reader.get("other", len(VALUE)))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait({task})
            assert await reader.get("k", len(VALUE)) == VALUE


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"$5\r\nhello\r\n", b"hello"),
        (b"$-1\r\n", None),
        (b"$6\r\nhello!\r\n", None),
        (b"$999999999999\r\n", None),
        (b"-LOADING it is loading\r\n", Unread),
        (b"$5\r\nhello--", Unread),
        (b"$5\r\nhel", Unread),
        (b"$x\r\n", None),
        (b":5\r\n", Unread),
        (b"x" * 2000, Unread),
        (b"", Unread),
    ],
)
async def test_answers_in_pieces(sockets: Path, step: int, answer: bytes, expected: Any) -> None:
    """However an answer is cut, and whatever it is, it is the value, none, or for redis-py to ask."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"k\r\n")
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_unix_server(serve, sockets / "scripted.sock")
    async with server, values(parse_redis_url(f"unix://{sockets / 'scripted.sock'}")) as reader:
        if expected is Unread:
            with pytest.raises(Unread):
                await reader.get("k", 5)
        else:
            assert await reader.get("k", 5) == expected


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("s")
