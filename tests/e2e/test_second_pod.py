"""The second pod on a node costs the origin no byte of a file, in each form that a node's proxies may have.

The commands are the installed ones, S3 and Redis are real servers, and loads are processes of their own.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest

from tests.e2e.conftest import Loads
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.processes import Processes, Proxy
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer

REFERENCE = "org/bert@prod"
# Index and manifest, of every proxy that looks at S3 itself; the weights have six million bytes.
LOOKED_UP_BYTES = 100_000
READERS = 64
PROXIES = 3


@dataclass
class Node:
    """A published model, and proxies before it.

    Attributes:
        folder: as it was published.
        size: of the weights, in bytes.
    """

    processes: Processes
    loads: Loads
    s3: S3Server
    bucket: str
    folder: Path

    @property
    def origin(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def size(self) -> int:
        return (self.folder / "model.safetensors").stat().st_size

    def serve(self, store: Path | str, *arguments: str, origin: str | None = None) -> Proxy:
        """Start a proxy."""
        environment = self.s3.environment()
        return self.processes.serve(origin or self.origin, store, *arguments, environment=environment)

    def load(self, proxy: Proxy) -> int:
        """Load the model through a proxy alone, check every bit, and return what S3 sent meanwhile."""
        before = self.s3.bytes_sent(self.bucket)
        self.loads.check(self.loads.run(REFERENCE, {"HOTSTART_PROXY": proxy.url}), self.folder, "7")
        return self.s3.bytes_sent(self.bucket) - before


@pytest.fixture
def node(
    processes: Processes,
    loads: Loads,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
) -> Node:
    environment = s3_server.environment()
    folder = publish("org/bert@7", f"s3://{s3_bucket}", "--alias", "prod", environment=environment)
    return Node(processes, loads, s3_server, s3_bucket, folder)


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def origin_bytes(proxy: Proxy) -> float:
    """Return how many bytes of files a proxy had from its origin."""
    return proxy.metric("hotstart_origin_bytes_total")


def test_chained_sidecars(node: Node, tmp_path: Path) -> None:
    """A second sidecar before a node's proxy loads all of the model, and S3 sends nothing of a file."""
    shared = node.serve(tmp_path / "node")
    first = node.serve(tmp_path / "first", origin=f"http://127.0.0.1:{shared.port}")
    assert node.size <= node.load(first) <= node.size + LOOKED_UP_BYTES
    assert origin_bytes(shared) == origin_bytes(first) == node.size
    second = node.serve(tmp_path / "second", origin=f"unix:{shared.unix}")
    assert node.load(second) <= LOOKED_UP_BYTES
    assert origin_bytes(shared) == origin_bytes(second) == node.size


def test_a_shared_directory(node: Node, tmp_path: Path) -> None:
    """A second proxy on the directory of the first loads all of the model, and S3 sends nothing of a file."""
    first = node.serve(tmp_path / "store")
    assert node.size <= node.load(first) <= node.size + LOOKED_UP_BYTES
    second = node.serve(tmp_path / "store")
    assert node.load(second) <= LOOKED_UP_BYTES
    assert (origin_bytes(first), origin_bytes(second)) == (node.size, 0)


def test_a_rolling_replacement(node: Node, redis: ValkeyServer, tmp_path: Path) -> None:
    """A new sidecar with an empty disk over a full Redis loads all; S3 sends nothing of a file."""
    old = node.serve(tmp_path / "old", "--store", redis.url)
    assert node.size <= node.load(old) <= node.size + LOOKED_UP_BYTES
    wait_until("Redis to have the weights", lambda: old.metric("hotstart_store_blobs", store="redis"))
    old.process.terminate()
    new = node.serve(tmp_path / "new", "--store", redis.url)
    assert node.load(new) <= LOOKED_UP_BYTES
    assert origin_bytes(new) == 0
    wait_until("the new disk to have the weights", lambda: new.metric("hotstart_store_blobs", store="disk"))
    assert new.metric("hotstart_source_bytes_total", **{"from": "redis"}) == node.size


def test_a_new_sidecar_while_s3_is_away(
    node: Node, redis: ValkeyServer, processes: Processes, tmp_path: Path
) -> None:
    """With a full Redis a new sidecar loads the model though its origin cannot be reached at all."""
    old = node.serve(tmp_path / "old", "--store", redis.url)
    node.load(old)
    wait_until("Redis to have the weights", lambda: old.metric("hotstart_store_blobs", store="redis"))
    old.process.terminate()
    away = {**node.s3.environment(), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
    new = processes.serve(node.origin, tmp_path / "new", "--store", redis.url, environment=away)
    node.load(new)


def test_a_redis_that_is_gone_is_passed_by(node: Node, redis: ValkeyServer, tmp_path: Path) -> None:
    """When Redis dies the disk is filled from S3 all the same, and readiness says what is wrong."""
    proxy = node.serve(tmp_path / "store", "--store", redis.url)
    redis.kill()
    assert node.size <= node.load(proxy) <= node.size + LOOKED_UP_BYTES
    status, body = proxy.get("/healthz/ready")
    assert status == 200
    assert b"Redis does not answer" in body
    wait_until("the disk to have the weights", lambda: proxy.metric("hotstart_store_blobs", store="disk"))
    assert node.load(proxy) <= LOOKED_UP_BYTES


@pytest.mark.parametrize("with_disk", [False, True], ids=["redis", "disk and redis"])
def test_cold_readers_over_three_proxies_cost_one_copy(
    node: Node, redis: ValkeyServer, tmp_path: Path, with_disk: bool
) -> None:
    """64 cold readers over three proxies that share a Redis all get the file right; S3 counts one copy."""
    proxies = [
        node.serve(tmp_path / f"disk-{number}", "--store", redis.url) if with_disk else node.serve(redis.url)
        for number in range(PROXIES)
    ]
    before = node.s3.bytes_sent(node.bucket)
    together = Barrier(READERS)

    def read(number: int) -> str:
        port = proxies[number % PROXIES].port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        together.wait()
        connection.request("GET", "/v1/models/org/bert@7/model.safetensors")
        answer = connection.getresponse()
        assert answer.status == 200
        data = answer.read()
        connection.close()
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(READERS) as pool:
        found = set(pool.map(read, range(READERS)))
    assert found == {hashlib.sha256((node.folder / "model.safetensors").read_bytes()).hexdigest()}
    sent = node.s3.bytes_sent(node.bucket) - before
    assert node.size <= sent <= node.size + PROXIES * LOOKED_UP_BYTES
    assert sum(origin_bytes(proxy) for proxy in proxies) == node.size
