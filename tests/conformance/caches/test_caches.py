"""The suite on a disk, in Redis, in a Redis cluster, and on a disk over Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.caches.bench import Backing, DiskBacking, LevelsBacking, RedisBacking
from tests.conformance.caches.suite import CacheSuite
from tests.support.valkey import ValkeyCluster, ValkeyServer


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


class TestDisk(CacheSuite):
    """One disk store."""

    def backing(self, root: Path) -> Backing:
        return DiskBacking(root)


class TestRedis(CacheSuite):
    """One Redis server."""

    client: Any
    url: str

    @pytest.fixture(autouse=True)
    def _empty(self, server: ValkeyServer) -> Iterator[None]:
        self.url = server.url
        with server.client() as self.client:
            self.client.flushall()
            yield

    def backing(self, root: Path) -> Backing:
        return RedisBacking(self.url, self.client)


class TestRedisCluster(CacheSuite):
    """Three Redis servers that share the slots."""

    client: Any
    url: str

    @pytest.fixture(autouse=True)
    def _empty(self, cluster: ValkeyCluster) -> Iterator[None]:
        self.url = cluster.url
        with cluster.client() as self.client:
            self.client.flushall(target_nodes="primaries")
            yield

    def backing(self, root: Path) -> Backing:
        return RedisBacking(self.url, self.client)


class TestDiskOverRedis(TestRedis):
    """Two levels: a disk store, and one Redis server under it."""

    def backing(self, root: Path) -> Backing:
        return LevelsBacking(root, RedisBacking(self.url, self.client))
