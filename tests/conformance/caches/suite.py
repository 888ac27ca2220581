"""What a cache promises, whatever its stores are: pass it by subclassing, with the hook that gives them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotstart_proxy.telemetry.load import Load
from tests.conformance.caches.bench import Backing, Bench
from tests.conformance.caches.faults import FaultSuite
from tests.conformance.caches.indexes import IndexSuite
from tests.conformance.caches.passthrough import PassThroughSuite
from tests.conformance.caches.pins import PinSuite
from tests.conformance.caches.reading import ReadingSuite
from tests.conformance.caches.retention import RetentionSuite
from tests.conformance.caches.sharing import SharingCachesSuite
from tests.conformance.caches.turmoil import TurmoilSuite
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import PublishedTree

__all__ = ["CacheSuite"]


class CacheSuite(
    ReadingSuite,
    PassThroughSuite,
    IndexSuite,
    FaultSuite,
    RetentionSuite,
    PinSuite,
    SharingCachesSuite,
    TurmoilSuite,
    ABC,
):
    """Subclass it, name the class Test…, and give the hook."""

    @abstractmethod
    def backing(self, root: Path) -> Backing:
        """Return the stores of a test, empty; root is a folder for them, not yet there."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        """A tree without versions, and empty stores; in the end every cache has given back all it took."""
        root = tmp_path / "origin"
        root.mkdir()
        tree = PublishedTree(root)
        store_root = tmp_path / "store"
        bench = Bench(tree, FaultOrigin(tree.origin), self.backing(store_root), store_root)
        yield bench
        for cache in bench.caches:
            assert cache.load() == Load()
