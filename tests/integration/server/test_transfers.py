"""The data plane on real sockets: whole files, slow and vanishing readers, and bodies that break."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import socket
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from hotstart.wire.errors import HotstartError
from hotstart_proxy.cache.answers import Body, BodySource
from hotstart_proxy.origins.base import OriginUnreachable
from hotstart_proxy.server import exchanges
from hotstart_proxy.server.connections import Connection, ConnectionServer
from hotstart_proxy.server.exchanges import Exchange
from hotstart_proxy.server.sendfile import BodyWriter, FileTooShort, ReaderStalled
from hotstart_proxy.server.transfers import FileTransfer
from hotstart_proxy.server.turns import Turn, Turns
from hotstart_proxy.stores.base import FileSlice
from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import Ended, ask, connected
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.processes import Processes, Proxy

BIG = "/v1/models/org/bert@7/big.bin"
SMALL_BUFFER = 16 * 1024


def open_files(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))


def big(published: Published) -> bytes:
    return (published.folders["7"] / "big.bin").read_bytes()


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_large_file_over_four_connections(proxy: Proxy, published: Published, listener: str) -> None:
    """Four ranged connections at once get a large file byte for byte, cold or warm."""
    place = proxy.port if listener == "tcp" else proxy.unix
    quarter = BIG_BYTES // 4

    def part(number: int) -> bytes:
        answer = ask(place, BIG, {"Range": f"bytes={number * quarter}-{(number + 1) * quarter - 1}"})
        assert answer.status == 206
        return answer.body

    with ThreadPoolExecutor(4) as workers:
        parts = list(workers.map(part, range(4)))
    assert hashlib.sha256(b"".join(parts)).digest() == hashlib.sha256(big(published)).digest()


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_slow_reader_stalls_nobody_and_gets_its_bytes(
    proxy: Proxy, published: Published, listener: str
) -> None:
    """While one reader has stopped in the middle, others are served; then it gets the rest."""
    place = proxy.port if listener == "tcp" else proxy.unix
    with connected(place, SMALL_BUFFER) as slow:
        slow.request("GET", BIG)
        _, headers = slow.head()
        start = slow.exactly(100_000)
        for _ in range(3):
            assert ask(place, "/healthz/live").status == 200
            assert ask(place, BIG, {"Range": "bytes=-9"}).body == big(published)[-9:]
        rest = slow.exactly(int(headers["content-length"]) - len(start))
        assert start + rest == big(published)
        slow.request("GET", "/healthz/live")
        assert slow.answer().status == 200


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_readers_that_vanish_leave_no_descriptor(proxy: Proxy) -> None:
    """Resets and closes in the middle of a transfer give back every descriptor, on both kinds of socket."""
    ask(proxy.port, BIG, {"Range": "bytes=0-0"})
    wait_until("the file to be cached", lambda: proxy.metric("hotstart_fills_in_progress") == 0)
    before = open_files(proxy)
    for number in range(12):
        with connected(proxy.port if number % 3 else proxy.unix, SMALL_BUFFER) as wire:
            wire.request("GET", BIG)
            wire.head()
            wire.exactly(1000)
            if number % 2:
                reset(wire.sock)
    wait_until("all descriptors to be back", lambda: open_files(proxy) <= before)
    assert ask(proxy.port, "/healthz/live").status == 200


def test_a_reader_that_vanishes_while_the_file_is_filled(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """The first reader of a cold file may go; the next gets it whole."""
    proxy = processes.serve(published.url, tmp_path / "store")
    with connected(proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        wire.head()
        reset(wire.sock)
    assert ask(proxy.port, BIG).body == big(published)


# What follows runs in this process, with bodies that no healthy store gives.


class MadeBody(Body):
    """A body of given parts; an exception among them is raised in its turn."""

    def __init__(self, parts: list[FileSlice | bytes | Exception], length: int) -> None:
        self.source = BodySource.HIT
        self.length = length
        self.closed = 0
        self._parts = parts

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def close(self) -> None:
        self.closed += 1


LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[LoopFactory] = [uvloop.new_event_loop, asyncio.SelectorEventLoop]


class Running:
    """A server of one handler in a thread of its own, on TCP and a Unix socket."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], folder: Path
    ) -> None:
        self._handler = handler
        self.unix = folder / "test.sock"
        self.port = 0
        self.malformed: list[str] = []
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.server: ConnectionServer | None = None

    def run(self, factory: LoopFactory) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.server = ConnectionServer(self._handler, lambda _, problem: self.malformed.append(problem.code))
        tcp = await self._loop.create_server(self.server, "127.0.0.1", 0)
        unix = await self._loop.create_unix_server(self.server, str(self.unix))
        self.port = tcp.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        tcp.close()
        unix.close()
        await self.server.shutdown(1)

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)

    def wait(self) -> None:
        assert self._ready.wait(DEADLINE_SECONDS)

    def call(self, work: Callable[[], None]) -> None:
        """Run work on the loop's thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(work)


@contextmanager
def running(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], folder: Path, factory: LoopFactory
) -> Iterator[Running]:
    server = Running(handler, folder)
    thread = threading.Thread(target=server.run, args=(factory,))
    thread.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


class Sender:
    """A handler that sends one body with a BodyWriter, and keeps what went wrong."""

    def __init__(self, make: Callable[[], MadeBody], idle_seconds: float = DEADLINE_SECONDS) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self.errors: list[Exception] = []
        self.bodies: list[MadeBody] = []
        self._writer: BodyWriter | None = None
        self._sent_before = 0

    def stands_still(self) -> bool:
        """Tell whether something was sent, and nothing more since the last look."""
        sent = 0 if self._writer is None else self._writer.sent
        before, self._sent_before = self._sent_before, sent
        return 0 < sent == before

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = self._make()
        self.bodies.append(body)
        response = web.StreamResponse(headers={"Content-Length": str(body.length)})
        await response.prepare(request)
        self._writer = writer = BodyWriter(request, idle_seconds=self._idle_seconds)
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            async for part in body.parts():
                await writer.write(part)
        except (HotstartError, ConnectionError) as error:
            self.errors.append(error)
            connection.cut()
            response.force_close()
        finally:
            writer.close()
            await body.close()
            connection.answered += 1
        return response


@pytest.fixture(params=LOOPS, ids=["uvloop", "asyncio"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    factory: LoopFactory = request.param
    return factory


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="hs-") as folder:
        yield Path(folder)


def test_slices_and_chunks_keep_their_order(loop_factory: LoopFactory, sockets: Path) -> None:
    """Chunks through the transport and slices beside it arrive in order, also while the socket is full."""
    data = os.urandom(6_000_000)
    file = sockets / "data"
    file.write_bytes(data)
    descriptor = os.open(file, os.O_RDONLY)
    # Chunks so small that the transport holds them back without making their writer wait, between slices
    # that are sent from the file and such as are copied.
    sizes = itertools.cycle([10_007, 100_003, 10_007, 20_011])
    cuts = [0]
    while cuts[-1] < len(data):
        cuts.append(min(cuts[-1] + next(sizes), len(data)))

    def make() -> MadeBody:
        parts: list[FileSlice | bytes | Exception] = []
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            whole = FileSlice(descriptor, start, stop - start)
            parts.append(whole if number % 2 else data[start:stop])
        return MadeBody(parts, len(data))

    try:
        sender = Sender(make)
        with running(sender, sockets, loop_factory) as server:
            for place in (server.port, server.unix):
                with connected(place, SMALL_BUFFER) as wire:
                    wire.request("GET", "/")
                    wait_until("the socket to be full", sender.stands_still)
                    assert wire.answer().body == data
                    wire.request("GET", "/")
                    assert wire.answer().body == data
    finally:
        os.close(descriptor)


def test_an_error_after_the_headers_cuts_the_body_short(loop_factory: LoopFactory, sockets: Path) -> None:
    """A body that breaks ends early; the client never sees a clean end of a wrong body."""
    error = OriginUnreachable("s3://b", "reading x", "gone")
    sender = Sender(lambda: MadeBody([b"a" * 1000, error], 5000))
    with running(sender, sockets, loop_factory) as server:
        for place in (server.port, server.unix):
            with connected(place) as wire:
                wire.request("GET", "/")
                wire.head()
                assert wire.exactly(1000) == b"a" * 1000
                assert wire.until_end() == b""
    assert sender.errors == [error, error]
    assert [body.closed for body in sender.bodies] == [1, 1]


def test_a_file_that_is_too_short(loop_factory: LoopFactory, sockets: Path) -> None:
    """A stored file that ends before its slice is an error, not an endless loop."""
    file = sockets / "short"
    file.write_bytes(b"x" * 10)
    descriptor = os.open(file, os.O_RDONLY)
    sender = Sender(lambda: MadeBody([FileSlice(descriptor, 5, 10)], 10))
    try:
        with running(sender, sockets, loop_factory) as server, connected(server.port) as wire:
            wire.request("GET", "/")
            wire.head()
            assert wire.until_end() == b"xxxxx"
    finally:
        os.close(descriptor)
    (error,) = sender.errors
    assert isinstance(error, FileTooShort)
    assert (error.offset, error.missing) == (10, 5)


@pytest.mark.parametrize("kind", ["slice", "bytes"])
def test_a_reader_that_reads_nothing_is_given_up(loop_factory: LoopFactory, sockets: Path, kind: str) -> None:
    """A client that takes no byte for the idle time is cut, and its descriptors are given back."""
    size = 16 * 1024 * 1024
    file = sockets / "zeros"
    with file.open("wb") as made:
        made.truncate(size)
    descriptor = os.open(file, os.O_RDONLY)
    part = FileSlice(descriptor, 0, size) if kind == "slice" else bytes(size)
    sender = Sender(lambda: MadeBody([part], size), idle_seconds=0.2)
    try:
        with running(sender, sockets, loop_factory) as server:
            before = len(os.listdir("/proc/self/fd"))
            with connected(server.port, SMALL_BUFFER) as wire:
                wire.request("GET", "/")
                wire.head()
                wait_until("the reader to be given up", lambda: bool(sender.errors))
                with pytest.raises((Ended, ConnectionResetError)):
                    wire.exactly(size)
            wait_until("its descriptors to be back", lambda: len(os.listdir("/proc/self/fd")) <= before)
    finally:
        os.close(descriptor)
    assert isinstance(sender.errors[0], ReaderStalled)


def test_cutting_stops_a_transfer_that_runs(loop_factory: LoopFactory, sockets: Path) -> None:
    """A cut ends a sendfile that waits for its reader, which closing the transport alone does not."""
    size = 64 * 1024 * 1024
    file = sockets / "zeros"
    with file.open("wb") as made:
        made.truncate(size)
    descriptor = os.open(file, os.O_RDONLY)
    sender = Sender(lambda: MadeBody([FileSlice(descriptor, 0, size)], size))
    try:
        with running(sender, sockets, loop_factory) as server, connected(server.unix) as wire:
            wire.request("GET", "/")
            wire.head()
            wire.exactly(1000)

            def cut() -> None:
                assert server.server is not None
                for connection in server.server.open_connections():
                    connection.cut()

            server.call(cut)
            assert len(wire.until_end()) < size - 1000
    finally:
        os.close(descriptor)


@contextmanager
def zeros(folder: Path, size: int) -> Iterator[FileSlice]:
    """All of a file of that many zeros, which takes no space."""
    file = folder / "zeros"
    with file.open("wb") as made:
        made.truncate(size)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        yield FileSlice(descriptor, 0, size)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_half_closing_in_the_middle_of_a_slice(
    loop_factory: LoopFactory, sockets: Path, listener: str
) -> None:
    """A reader that ends its own side while its bytes are on the way gets all of them."""
    size = 8 * 1024 * 1024
    with zeros(sockets, size) as whole:
        sender = Sender(lambda: MadeBody([whole], size))
        with running(sender, sockets, loop_factory) as server:
            place = server.port if listener == "tcp" else server.unix
            with connected(place, SMALL_BUFFER) as wire:
                wire.request("GET", "/")
                wire.head()
                wait_until("the socket to be full", sender.stands_still)
                wire.sock.shutdown(socket.SHUT_WR)
                assert len(wire.exactly(size)) == size
    assert not sender.errors


def test_probes_are_answered_while_sixteen_large_transfers_run(
    loop_factory: LoopFactory, sockets: Path
) -> None:
    """However many readers take what they can, a short request has its answer before any of them is done."""
    size = 1 << 40

    with zeros(sockets, size) as whole:
        sender = Sender(lambda: MadeBody([whole], size))

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == "/big":
                return await sender(request)
            connection = request.protocol
            assert isinstance(connection, Connection)
            connection.answered += 1
            return web.Response(text="alive")

        reading = threading.Barrier(17)

        def read(place: int | Path, done: threading.Event) -> int:
            with connected(place) as wire:
                wire.request("GET", "/big")
                wire.head()
                buffer, count = bytearray(1 << 20), 0
                reading.wait(DEADLINE_SECONDS)
                while not done.is_set() and (got := wire.sock.recv_into(buffer)):
                    count += got
            return count

        with running(handle, sockets, loop_factory) as server, ThreadPoolExecutor(16) as readers:
            done = threading.Event()
            places: list[int | Path] = [server.port, server.unix] * 8
            counts = [readers.submit(read, place, done) for place in places]
            try:
                reading.wait(DEADLINE_SECONDS)
                for _ in range(5):
                    assert ask(server.port, "/").body == b"alive"
                assert not any(future.done() for future in counts)
            finally:
                done.set()
            assert all(0 < future.result(DEADLINE_SECONDS) < size for future in counts)
            wait_until("the transfers to end", lambda: len(sender.errors) == len(places))


class DeniedTurn(Turn):
    """Denies every other portion for a moment, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def claim(self) -> float:
        self.asked += 1
        return 0.001 if self.asked % 2 else 0.0

    def rest(self) -> None:
        """Nobody waits for it."""


async def test_a_slice_waits_for_its_turn(sockets: Path) -> None:
    """A transfer that may not send now asks again a little later, and loses nothing."""
    size = 6 * 1024 * 1024
    ours, theirs = socket.socketpair()
    with zeros(sockets, size) as whole, ours, theirs:
        ours.setblocking(False)
        turn = DeniedTurn()
        reader = asyncio.create_task(asyncio.to_thread(_read_all, theirs, size))
        await FileTransfer(whole, turn, DEADLINE_SECONDS).run(ours.fileno())
        assert await reader == size
    assert turn.asked > 2 * size // (1024 * 1024)


def _read_all(sock: socket.socket, size: int) -> int:
    count, buffer = 0, bytearray(1 << 16)
    while count < size:
        count += sock.recv_into(buffer)
    return count


async def test_a_cancelled_slice_sends_nothing_more(sockets: Path) -> None:
    """A transfer that is cancelled leaves neither a watch on its socket nor bytes that come later."""
    size = 64 * 1024 * 1024
    ours, theirs = socket.socketpair()
    with zeros(sockets, size) as whole, ours, theirs:
        ours.setblocking(False)
        transfer = FileTransfer(whole, None, DEADLINE_SECONDS)
        task = asyncio.create_task(transfer.run(ours.fileno()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        sent = transfer.sent
        assert 0 < sent < size
        assert await asyncio.to_thread(_read_all, theirs, sent) == sent
        await asyncio.sleep(0.01)
        assert transfer.sent == sent
        assert not asyncio.get_running_loop().remove_writer(ours.fileno())


def test_the_head_does_not_wait_for_slow_bytes(
    loop_factory: LoopFactory, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first bytes of a hit are long in coming, the headers go out before them."""
    monkeypatch.setattr(exchanges, "FIRST_PART_SECONDS", 0.01)
    head_came = threading.Event()

    class SlowBody(MadeBody):
        @property
        def queue_seconds(self) -> float | None:
            return None

        async def parts(self) -> AsyncIterator[FileSlice | bytes]:
            await asyncio.to_thread(head_came.wait, DEADLINE_SECONDS)
            yield b"late"

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, Turns())
        try:
            return await exchange.send(200, {"Content-Length": "4"}, SlowBody([], 4))
        finally:
            exchange.connection.answered += 1

    with running(handle, sockets, loop_factory) as server, connected(server.port) as wire:
        wire.request("GET", "/")
        assert wire.head()[0] == 200
        head_came.set()
        assert wire.exactly(4) == b"late"
