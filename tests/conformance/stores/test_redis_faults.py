"""What Redis layout 1 promises besides the suites: its bytes, fences, and what vanishes or is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, Pieces
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores.base import NoSpaceNow, Store, StoreError, Vanished
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_keys import LEDGER, Record, State, blob_key, chunk_key, lease_key
from hotstart_proxy.stores.redis_ledger import RedisLedger
from hotstart_proxy.stores.redis_link import RedisLink
from hotstart_proxy.stores.redis_urls import parse_redis_url
from hotstart_proxy.stores.urls import open_store
from tests.conformance.stores import redis_commit
from tests.conformance.stores.sharing import LEASE_SECONDS, THREE_PIECES
from tests.conformance.stores.suite import TWO_PIECES, begin, content, digests, fill, read_all, write
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.valkey import ValkeyServer

ID = content(b"abc")


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    """One server for the module."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> ValkeyServer:
    """The module's server, emptied."""
    with running.client() as client:
        client.flushall()
    return running


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[Any]:
    """A way around the store."""
    with server.client() as open_client:
        yield open_client


def store(server: ValkeyServer, budget_bytes: int | None = 1 << 30, **options: float) -> RedisStore:
    return RedisStore(parse_redis_url(server.url), budget_bytes, **options)


async def until(what: str, look: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not look():  # noqa: ASYNC110  what is looked at has no event
            await asyncio.sleep(0.01)


# Layout 1


async def test_the_keys_and_bytes_of_layout_1(server: ValkeyServer, client: Any) -> None:
    """The names of all keys and the bytes of a record are those of docs/format.md."""
    async with store(server) as opened:
        content_id = await fill(opened, TWO_PIECES)
        partial = await begin(opened, ID, 3, None)
        await partial.claim([0])
        await opened.write_document("org/bert/index.json", b"{}")
        await opened.write_document("org/bert/manifests/7.json", b"[]")
        await opened.write_document("note", b"")
        names = {key.decode() for key in client.keys("*")}
        assert names == {
            f"hs1:b:{{{content_id}}}",
            f"hs1:c:{{{content_id}.0}}",
            f"hs1:c:{{{content_id}.1}}",
            f"hs1:b:{{{ID}}}",
            f"hs1:l:{{{ID}}}",
            "hs1:m:{org/bert}",
            "hs1:m:{.}",
            "hs1:u:{blobs}",
        }
        assert client.hgetall("hs1:m:{org/bert}") == {b"index.json": b"{}", b"manifests/7.json": b"[]"}
        assert client.get(chunk_key(content_id, 1)) == b"the second piece"
        record = client.get(blob_key(content_id))
        assert record[:16] == b"HSBLOB1\0" + struct.pack("<Q", len(TWO_PIECES))
        seconds, _ = client.time()
        assert abs(struct.unpack("<Q", record[24:32])[0] / 1000 - seconds) < 60
        assert record[32:40] == struct.pack("<II", 1, 0)
        crc32s = [zlib.crc32(TWO_PIECES[:PIECE_BYTES]), zlib.crc32(TWO_PIECES[PIECE_BYTES:])]
        assert record[40:] == struct.pack("<IIII", 1, crc32s[0], 1, crc32s[1])
        assert client.get(blob_key(ID))[32:] == struct.pack("<IIII", 0, 0, 0, 0)
        lease = client.hgetall(lease_key(ID))
        (holder,) = [name[2:] for name in lease if name.startswith(b"h:")]
        assert lease[b"p:0"] == holder
        assert int(lease[b"h:" + holder]) / 1000 > seconds
        ledger = client.hgetall(LEDGER)
        assert ledger.pop(b"layout") == b"1"
        assert {name.decode(): int(entry.split()[0]) for name, entry in ledger.items()} == {
            content_id: len(TWO_PIECES),
            ID: 3,
        }
        await partial.close()
    assert [client.ttl(key) for key in client.keys("*")] == [-1] * len(client.keys("*"))


async def test_other_keys_are_left_alone(server: ValkeyServer, client: Any) -> None:
    """What others keep in the same Redis is neither read, counted nor removed."""
    client.set("session:1", b"x")
    client.set("hs1:c:{not an id.0}", b"x")
    client.set("hs1:b:{short}", b"x")
    async with store(server) as opened:
        await fill(opened, b"abc")
        await opened.drop_partials(0)
        assert opened.usage().used_bytes == 3
    assert client.mget("session:1", "hs1:c:{not an id.0}", "hs1:b:{short}") == [b"x"] * 3


async def test_nothing_is_said_to_be_there_before_it_is(server: ValkeyServer, client: Any) -> None:
    """As the server sees a fill, each chunk comes before its mark in the record, all before the commit."""
    with server.client() as watching, watching.monitor() as monitor:
        async with store(server, refresh_seconds=3600) as opened:
            content_id = await fill(opened, TWO_PIECES)
        client.echo("the end")
        writes: list[str] = []
        while not (command := monitor.next_command()["command"]).startswith("ECHO"):
            words: list[str] = [*command[:200].split(" ", 3), "", ""]
            name, key, where = words[:3]
            if content_id in key:
                chunks = [f"chunk {piece}" for piece in (0, 1) if chunk_key(content_id, piece) == key]
                if name == "SET":
                    writes += chunks or ["record"]
                elif name == "SETRANGE":
                    writes.append(f"record at {where}")
    begun, date, state = "record", "record at 24", "record at 32"
    assert writes == [begun, "chunk 0", "record at 40", date, "chunk 1", "record at 48", date, state]


# Fences


@contextlib.contextmanager
def committer(server: ValkeyServer) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has written all of a blob, and commits when it is told to."""
    command = [sys.executable, str(Path(redis_commit.__file__)), server.url, str(LEASE_SECONDS), ID]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def told_to_commit(process: subprocess.Popen[bytes]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    process.send_signal(signal.SIGCONT)
    return process.stdout.readline().decode()


@pytest.mark.parametrize("begun_anew", [False, True])
async def test_the_commit_of_a_paused_holder_is_fenced(
    server: ValkeyServer, client: Any, begun_anew: bool
) -> None:
    """A process that slept past its lease while its fill was dropped, or begun anew, commits nothing."""
    with committer(server) as process:
        process.send_signal(signal.SIGSTOP)
        async with store(server, lease_seconds=LEASE_SECONDS) as opened:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await opened.drop_partials(0):  # noqa: ASYNC110  a lease lapses by the clock
                    await asyncio.sleep(0.05)
            partial = await begin(opened, ID, 3, None) if begun_anew else None
            answer = await asyncio.to_thread(told_to_commit, process)
            assert answer.startswith("Vanished: ")
            assert "removed, or begun anew by another process" in answer
            found = Record.parse(client.get(blob_key(ID)))
            if partial is None:
                assert found is None
            else:
                assert found is not None
                assert (found.state, found.crc32) == (State.FILLING, (None,))
                await partial.close()
            assert await opened.open_blob(ID) is None


async def test_a_paused_holder_whose_fill_is_still_there_commits(server: ValkeyServer, client: Any) -> None:
    """Having slept past its lease alone costs nobody a commit: its chunks are what they were."""
    with committer(server) as process:
        process.send_signal(signal.SIGSTOP)
        seconds = float(client.hvals(lease_key(ID))[0]) / 1000
        wait_until("the lease to lapse", lambda: client.time()[0] > seconds)
        assert await asyncio.to_thread(told_to_commit, process) == "committed\n"
    async with store(server) as opened:
        assert dict(opened.blobs()) == {ID: 3}


async def test_what_comes_late_is_not_written_over_another_generation(
    server: ValkeyServer, client: Any
) -> None:
    """A fill whose record was begun anew can neither mark nor claim, and its discard removes nothing."""
    async with store(server) as one, store(server) as other:
        late = await begin(one, "a" * 64, 3, None)
        current = await begin(other, "a" * 64, 4, None)
        with pytest.raises(Vanished):
            await late.claim([0])
        with pytest.raises(Vanished):
            await late.write(0, b"abc", zlib.crc32(b"abc"))
        with pytest.raises(Vanished):
            await late.refresh()
        await late.discard()
        await late.close()
        await write(current, b"wxyz")
        await current.commit(None)
        assert await read_all(current) == b"wxyz"
        await current.close()
        assert client.get(chunk_key("a" * 64, 0)) == b"wxyz"


# What vanishes or is damaged


async def test_a_blob_with_a_lost_chunk_keeps_the_others(server: ValkeyServer, client: Any) -> None:
    """A reader that finds a chunk gone is told so; the blob is partial then, and lacks that piece alone."""
    async with store(server) as opened:
        content_id = await fill(opened, THREE_PIECES)
    client.delete(chunk_key(content_id, 1))
    async with store(server, refresh_seconds=3600) as opened:
        # The sweep at the start has found it.
        assert dict(opened.blobs()) == {}
        partial = await begin(opened, content_id, len(THREE_PIECES), digests(THREE_PIECES))
        assert list(partial.done) == [True, False, True]
        assert await read_all(partial, ByteRange(0, 10)) == THREE_PIECES[:10]
        assert list(await partial.claim([0, 1, 2])) == [1]
        await write(partial, THREE_PIECES, range(1, 2))
        await partial.commit(content_id)
        await partial.close()
        blob = await opened.open_blob(content_id)
        assert blob is not None
        client.setrange(chunk_key(content_id, 2), 50, b"damage")
        async with store(server) as other:
            theirs = await other.open_blob(content_id)
            assert theirs is not None
            with pytest.raises(Vanished, match=r"reading piece 2 .*gone or damaged"):
                await read_all(theirs)
            await theirs.close()
        await blob.close()
        assert await opened.open_blob(content_id) is None
        found = Record.parse(client.get(blob_key(content_id)))
        assert found is not None
        assert [value is not None for value in found.crc32] == [True, True, False]


async def test_a_chunk_lost_in_the_middle_of_a_fill(server: ValkeyServer, client: Any) -> None:
    """A fill that has lost a chunk is not committed, and the next one takes up the rest."""
    async with store(server) as one, store(server) as other:
        partial = await begin(one, content(THREE_PIECES), len(THREE_PIECES), digests(THREE_PIECES))
        await write(partial, THREE_PIECES)
        client.delete(chunk_key(partial.id, 0))
        watching = await begin(other, partial.id, partial.size, digests(THREE_PIECES))
        assert [await watching.recover(piece) for piece in range(3)] == [False, True, True]
        with pytest.raises(Vanished, match="1 pieces have vanished"):
            await partial.commit(partial.id)
        await partial.close()
        await write(watching, THREE_PIECES, range(1))
        await watching.commit(partial.id)
        await watching.close()
        async with store(server) as third:
            blob = await third.open_blob(partial.id)
            assert blob is not None
            assert await read_all(blob) == THREE_PIECES
            await blob.close()


async def test_a_piece_with_another_sha256_is_refused(server: ValkeyServer) -> None:
    """What has the announced crc32 and not the announced sha256 is not kept."""
    async with store(server) as opened:
        pieces = Pieces((zlib.crc32(b"abc"),), b"\0" * 16)
        partial = await begin(opened, ID, 3, pieces)
        with pytest.raises(IntegrityError, match="piece 0"):
            await write(partial, b"abc")
        assert list(partial.done) == [False]
        await partial.close()


async def test_a_flush_is_seen(server: ValkeyServer, client: Any) -> None:
    """After a flush nothing is held, and the budget is free again."""
    async with store(server, 5) as opened:
        await fill(opened, b"abc")
        client.flushall()
        await opened.refresh()
        assert (dict(opened.blobs()), opened.usage().used_bytes) == ({}, 0)
        await fill(opened, b"wxyz")


async def test_the_budget_survives_the_loss_of_its_key(server: ValkeyServer, client: Any) -> None:
    """Where the key of the budget has vanished it is made again from what is there, before anything fits."""
    async with store(server, 5) as opened:
        await fill(opened, b"abc")
        client.delete(LEDGER)
        with pytest.raises(NoSpaceNow, match="3 of 5 bytes are in use"):
            await begin(opened, content(b"wxyz"), 4, None)
        assert opened.usage().used_bytes == 3


async def test_a_wrong_budget_heals(server: ValkeyServer, client: Any) -> None:
    """Entries of what is not there go, and what is there without an entry gets one."""
    async with store(server) as opened:
        held = await fill(opened, b"abc")
        client.hset(LEDGER, "b" * 64, "1000 x")
        client.hdel(LEDGER, held)
        await opened.drop_partials(3600)
        assert opened.usage().used_bytes == 3
        assert set(client.hkeys(LEDGER)) == {b"layout", held.encode()}


async def test_leftovers_are_reclaimed(server: ValkeyServer, client: Any) -> None:
    """Chunks and leases without a record are removed by a sweep, and those of a running fill are not."""
    client.set(chunk_key("d" * 64, 5), b"x")
    client.hset(lease_key("e" * 64), "h:x", "1")
    async with store(server) as opened, store(server) as other:
        assert client.keys("*") == [LEDGER.encode()]
        partial = await begin(opened, ID, 3, None)
        await write(partial, b"abc")
        await other.drop_partials(0)
        assert await read_all(partial) == b"abc"
        await partial.commit(ID)
        await partial.close()
        client.delete(blob_key(ID))
        await other.refresh()
        assert client.keys("*") == [LEDGER.encode()]
        assert other.usage().used_bytes == 0


async def test_readers_share_what_is_fetched(server: ValkeyServer, client: Any) -> None:
    """Many readers of the same bytes cost Redis one chunk, and what was just written costs none."""
    async with store(server) as opened:
        content_id = await fill(opened, THREE_PIECES)
    async with store(server) as opened:
        before = client.info("commandstats").get("cmdstat_get", {}).get("calls", 0)
        blobs = [await opened.open_blob(content_id) for _ in range(20)]
        opens = client.info("commandstats")["cmdstat_get"]["calls"]
        assert opens - before == 20
        ranges = [ByteRange(64 * 1024 * number, 64 * 1024 * (number + 1)) for number in range(20)]
        pairs = [(blob, part) for blob, part in zip(blobs, ranges, strict=True) if blob is not None]
        data = await asyncio.gather(*(read_all(blob, part) for blob, part in pairs))
        assert data == [THREE_PIECES[part.start : part.stop] for part in ranges]
        assert client.info("commandstats")["cmdstat_get"]["calls"] - opens == 1
        for blob, _ in pairs:
            await blob.close()


# A ledger that does not stay, or is not what it was


class Vanishing:
    """Lets the ledger vanish, so many times, as soon as it is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
        self.times = 0
        install = RedisLedger.install

        async def then_vanish(ledger: RedisLedger, doing: str, sizes: dict[str, int]) -> None:
            await install(ledger, doing, sizes)
            if self.times:
                self.times -= 1
                client.delete(LEDGER)

        monkeypatch.setattr(RedisLedger, "install", then_vanish)


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch, client: Any) -> Vanishing:
    """What decides whether the ledger stays."""
    return Vanishing(monkeypatch, client)


async def test_a_ledger_that_vanishes_between_two_commands(
    server: ValkeyServer, client: Any, vanishing: Vanishing
) -> None:
    """A ledger that is evicted as soon as it is made is made once more."""
    async with store(server, refresh_seconds=3600) as opened:
        await fill(opened, b"abc")
        client.delete(LEDGER)
        vanishing.times = 1
        await opened.refresh()
        assert opened.usage().used_bytes == 3
        assert vanishing.times == 0
        assert opened.trouble is None


async def test_a_ledger_that_never_stays(server: ValkeyServer, client: Any, vanishing: Vanishing) -> None:
    """A ledger that cannot be kept is an error that names its key, and all is well once it can."""
    async with store(server, refresh_seconds=0.02) as opened:
        await fill(opened, b"abc")
        vanishing.times = 1 << 30
        client.delete(LEDGER)
        await until("the upkeep to meet it", lambda: vanishing.times < (1 << 30) - 10)
        calls = (opened.refresh(), opened.drop_partials(0), opened.begin_fill(content(b"x"), 1, None))
        for call in calls:
            with pytest.raises(StoreError, match=r"Redis does not keep hs1:u:\{blobs\}") as raised:
                await call
            assert not isinstance(raised.value, NoSpaceNow)
        async with store(server) as late:
            assert late.trouble is not None
            assert late.trouble.startswith("Redis does not keep hs1:u:{blobs}")
            vanishing.times = 0
            await until("the sums to be kept", lambda: late.trouble is None)
            assert late.usage().used_bytes == 3
        async with store(server) as other:
            held = await fill(other, b"another")
        await until("the upkeep to go on", lambda: held in opened.blobs())


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("entry", [b"", b"x", b"-3 x", b"3.5"])
async def test_a_damaged_entry_heals(server: ValkeyServer, client: Any, entry: bytes, looks: bool) -> None:
    """An entry of the ledger that says nothing goes, and what it stood for is counted anew, by fills too."""
    async with store(server, 5, refresh_seconds=3600) as opened:
        held = await fill(opened, b"abc")
        client.hset(LEDGER, held, entry)
        client.hset(LEDGER, "b" * 64, entry)
        if looks:
            await opened.refresh()
        else:
            with pytest.raises(NoSpaceNow, match="3 of 5 bytes are in use"):
                await begin(opened, content(b"wxyz"), 4, None)
        assert opened.usage().used_bytes == 3
        assert set(client.hkeys(LEDGER)) == {b"layout", held.encode()}
        assert client.hget(LEDGER, held).split()[0] == b"3"


async def test_entries_of_other_names_go(server: ValkeyServer, client: Any) -> None:
    """What is no blob's name in the ledger is not counted, and does not stay."""
    async with store(server) as opened:
        client.hset(LEDGER, b"\xff", "3 x")
        client.hset(LEDGER, b"short", "3 x")
        await opened.refresh()
        assert (opened.usage().used_bytes, client.hkeys(LEDGER)) == (0, [b"layout"])


async def test_looking_for_redis_outlives_any_error() -> None:
    """An error that nobody foresaw ends no looking for Redis, at this outage or the next."""
    errors = [RuntimeError("an odd one"), None, RuntimeError("another"), None]
    came = 0

    async def meet() -> None:
        nonlocal came
        came += 1
        error = errors.pop(0) if came > 1 else None
        if error is not None:
            raise error

    with ValkeyServer() as server:
        link = RedisLink(parse_redis_url(server.url), 5.0, meet)
        await link.open()
        try:
            for _ in range(2):
                server.kill()
                with pytest.raises(StoreError, match="Redis does not answer"):
                    await link.command("asking", "PING")
                server.start()
                await until("Redis to be found again", lambda: link.trouble is None)
                assert await link.command("asking", "GET", "x") is None
        finally:
            await link.close()
    assert errors == []


async def test_a_look_does_not_undo_what_was_done_meanwhile(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process commits and removes while it looks at Redis stays so, however many looks overlap."""
    answered, go_on = asyncio.Event(), asyncio.Event()
    command = RedisLink.command

    async def slow(link: RedisLink, doing: str, *arguments: Any, **options: Any) -> Any:
        answer = await command(link, doing, *arguments, **options)
        if arguments[0] == "HGETALL" and not answered.is_set():
            answered.set()
            await go_on.wait()
        return answer

    async with store(server, refresh_seconds=3600) as opened:
        gone = await fill(opened, b"gone")
        monkeypatch.setattr(RedisLink, "command", slow)
        looks = [asyncio.create_task(opened.refresh())]
        await answered.wait()
        held = await fill(opened, b"abc")
        assert await opened.delete(gone)
        looks.append(asyncio.create_task(opened.refresh()))
        await asyncio.sleep(0.05)
        go_on.set()
        await looks[0]
        assert dict(opened.blobs()) == {held: 3}
        assert opened.usage().used_bytes == 3
        await looks[1]
        assert dict(opened.blobs()) == {held: 3}
        assert opened.usage().used_bytes == 3


# Redis away


async def test_trouble_comes_and_goes_by_itself() -> None:
    """A store says what is wrong while Redis is away, fails at once, and has what is there afterwards."""
    with ValkeyServer() as server:
        async with store(server) as opened:
            content_id = await fill(opened, b"abc")
            server.kill()
            with pytest.raises(StoreError, match="Redis does not answer"):
                await opened.open_blob(content_id)
            assert opened.trouble is not None
            assert opened.trouble.startswith("Redis does not answer: ")
            assert dict(opened.blobs()) == {}
            calls = (
                opened.open_blob(content_id),
                opened.begin_fill(content(b"x"), 1, None),
                opened.delete(content_id),
                opened.refresh(),
                opened.read_document("org/bert/index.json"),
                opened.documents(),
            )
            for call in calls:
                with pytest.raises(StoreError, match="Redis does not answer"):
                    await call
            server.start()
            await until("Redis to be found again", lambda: opened.trouble is None)
            assert await opened.open_blob(content_id) is None
            await fill(opened, b"abc")
            assert opened.usage().used_bytes == 3


async def test_a_partial_blob_can_be_closed_while_redis_is_away() -> None:
    """Fills and blobs that are open when Redis dies are let go without an error."""
    with ValkeyServer() as server:
        async with store(server) as opened:
            content_id = await fill(opened, b"abc")
            blob = await opened.open_blob(content_id)
            assert blob is not None
            partial = await begin(opened, content(b"x"), 1, None)
            await partial.claim([0])
            server.kill()
            await partial.release([0])
            await partial.close()
            await blob.close()
            server.start()
            await until("Redis to be found again", lambda: opened.trouble is None)
            await fill(opened, b"x")


async def test_no_budget_given() -> None:
    """Without a budget it is four fifths of maxmemory, or else half of the machine's memory."""
    with ValkeyServer(("--maxmemory", "100mb")) as server:
        async with store(server, None) as opened:
            assert opened.usage().budget_bytes == int(100 * 1024 * 1024 * 0.8)
        with server.client() as client:
            client.config_set("maxmemory", 0)
            machine = client.info("memory")["total_system_memory"]
        async with store(server, None) as opened:
            assert opened.usage().budget_bytes == machine // 2


async def test_a_unix_socket_and_a_password() -> None:
    """A store is reached by a Unix socket, as an ACL user with few rights; a wrong password is trouble."""
    rules = ("~hs1:*", "+@all", "-@admin", "-@dangerous", "+info")
    options = ("--user", "default", "off", "--user", "hot", "on", ">se/cr:et", *rules)
    with ValkeyServer(options) as server:
        url = f"unix://hot:se%2Fcr%3Aet@{server.unix}"
        for _ in range(2):
            opened: Store
            async with open_store(url, 100) as opened:
                assert opened.trouble is None
                if not opened.blobs():
                    await fill(opened, b"abc")
                await opened.write_document("org/bert/index.json", b"1")
                await opened.drop_partials(0)
                assert dict(opened.blobs()) == {ID: 3}
                assert "se" not in opened.url.partition("@")[0]
        async with open_store(f"redis://hot:wrong@127.0.0.1:{server.port}/0", 100) as opened:
            assert opened.trouble is not None
            assert "WRONGPASS" in opened.trouble or "invalid username-password" in opened.trouble
            with pytest.raises(StoreError) as raised:
                await opened.open_blob(ID)
            assert "wrong" not in str(raised.value)
