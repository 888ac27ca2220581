"""The readers that servers are measured under read all of what they should."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import nginx
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.publish import Proxy, served
from benchmarks.harness.weights import tiled
from benchmarks.readers import Load, Pattern, apply

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with served(tiled(3 * MIB), tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def load(proxy: Proxy) -> Load:
    return Load(str(proxy.unix), proxy.path(), 3 * MIB + 5, MIB, 4, 3)


@pytest.mark.parametrize("pattern", ["in order", "shuffled", "each"])
@pytest.mark.parametrize("transport", ["TCP", "Unix socket"])
def test_all_bytes_are_read(proxy: Proxy, load: Load, pattern: Pattern, transport: str) -> None:
    """Connections share out one reading of a file, or read all of it each, whichever way they come."""
    address = f"{proxy.address}:{proxy.port}" if transport == "TCP" else str(proxy.unix)
    outcome = apply(replace(load, address=address, pattern=pattern))
    assert outcome.body_bytes == load.size_bytes * (3 if pattern == "each" else 1)
    assert 0 < outcome.p50_seconds <= outcome.p99_seconds <= outcome.seconds


def test_readings_begin_again_at_the_end(load: Load) -> None:
    """More requests than the file has ranges read its beginning again."""
    assert apply(replace(load, requests=6)).body_bytes == load.size_bytes + 2 * MIB


def test_a_body_longer_than_the_memory(load: Load) -> None:
    """Many connections that read all of a file in one request need little memory each, and read all of it."""
    size = load.size_bytes
    one = replace(load, range_bytes=size, requests=1, connections=20, pattern="each")
    assert apply(one).body_bytes == 20 * size


@pytest.mark.parametrize("pattern", ["in order", "shuffled"])
def test_a_wrong_answer_ends_it(load: Load, pattern: Pattern) -> None:
    """A server that answers anything but 206 is an error that shows what it said."""
    with pytest.raises(BenchmarkFailed, match="404"):
        apply(replace(load, path="/v1/models/org/other@1/model.safetensors", pattern=pattern))


@pytest.mark.parametrize("pattern", ["in order", "shuffled"])
def test_a_server_that_breaks_off(load: Load, pattern: Pattern) -> None:
    """A connection that ends in the middle of an answer is an error, not a short figure."""
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\n\r\n"
    with speaking(lambda: head + bytes(50)) as address:
        with pytest.raises(BenchmarkFailed, match="in the middle of an answer"):
            apply(replace(load, address=address, pattern=pattern))


def test_nobody_there(load: Load, tmp_path: Path) -> None:
    """A server that is not there is an error that names its address."""
    with pytest.raises(BenchmarkFailed, match="nobody"):
        apply(replace(load, address=str(tmp_path / "nobody.sock")))


@pytest.mark.system
def test_nginx_is_read_the_same_way(load: Load, tmp_path: Path) -> None:
    """nginx, as it is set up here, serves the same ranges over TCP and its Unix socket."""
    file = tiled(3 * MIB)
    with nginx.serving(file.parent, tmp_path / "nginx") as server:
        for address in (f"{server.address}:{server.port}", str(server.unix)):
            one = replace(load, address=address, path=f"/{file.name}", size_bytes=file.stat().st_size)
            assert apply(one).body_bytes == one.size_bytes


@contextmanager
def speaking(answer: Callable[[], bytes]) -> Iterator[str]:
    """A server that answers whatever it is asked with the same bytes, and closes; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
