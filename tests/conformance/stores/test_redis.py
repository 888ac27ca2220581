"""The Redis store: the suites on one server and on a cluster of three."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.base import Store
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_keys import Record, State, blob_key, chunk_key
from hotstart_proxy.stores.redis_urls import parse_redis_url
from tests.conformance.stores.sharing import LEASE_SECONDS, SharingSuite
from tests.conformance.stores.suite import StoreSuite
from tests.support.valkey import ValkeyCluster, ValkeyServer

# As much as a test fills, many times over; a real default depends on the machine.
BUDGET_BYTES = 1 << 30


class RedisSuite(SharingSuite, StoreSuite):
    """The hooks, for whatever gives a URL and a client."""

    url: str
    client: Any

    def open(self, budget_bytes: int | None = None) -> AbstractAsyncContextManager[Store]:
        place = parse_redis_url(self.url)
        return RedisStore(place, budget_bytes or BUDGET_BYTES, lease_seconds=LEASE_SECONDS)

    def place(self) -> str:
        return self.url

    def damage_blob(self, content_id: str, offset: int) -> None:
        key = chunk_key(content_id, offset // PIECE_BYTES)
        data = self.client.get(key)
        at = offset % PIECE_BYTES
        self.client.set(key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    damage_partial = damage_blob

    def spoil_bookkeeping(self, content_id: str) -> None:
        self.client.setrange(blob_key(content_id), 0, b"X")

    def remove_blob(self, content_id: str) -> None:
        self.client.delete(blob_key(content_id))

    def _records(self) -> dict[str, Record | None]:
        keys = [key.decode() for key in self.client.scan_iter("hs1:b:*")]
        return {key[7:-1]: Record.parse(self.client.get(key)) for key in keys}

    def stored_blobs(self) -> set[str]:
        return {name for name, found in self._records().items() if found and found.state is State.COMPLETE}

    def stored_partials(self) -> set[str]:
        chunks = {key.decode()[7:71] for key in self.client.scan_iter("hs1:c:*")}
        return (chunks | self._records().keys()) - self.stored_blobs()


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """One server for the module, emptied for every test."""
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """One cluster for the module, emptied for every test."""
    with ValkeyCluster() as running:
        yield running


class TestRedisStore(RedisSuite):
    """The suites on one server."""

    @pytest.fixture(autouse=True)
    def _empty(self, server: ValkeyServer) -> Iterator[None]:
        self.url = server.url
        with server.client() as self.client:
            self.client.flushall()
            yield


class TestRedisClusterStore(RedisSuite):
    """The suites on three servers that share the slots."""

    @pytest.fixture(autouse=True)
    def _empty(self, cluster: ValkeyCluster) -> Iterator[None]:
        self.url = cluster.url
        with cluster.client() as self.client:
            self.client.flushall(target_nodes="primaries")
            yield
