"""How long it takes to open a disk store of 10,000 blobs: ``python -m benchmarks.store_open``.

Two starts are measured, each in a process of its own: the store alone, and a cache on it up to the end of
its first collection, which reads every manifest.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness.command import main
from benchmarks.harness.folders import REPOSITORY, workplace
from benchmarks.harness.pagecache import WARM
from benchmarks.harness.profile import Profile
from benchmarks.harness.results import Results
from hotstart.wire.adoption import Layout
from hotstart.wire.digests import sha256_id
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.documents import index_name, manifest_name
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.disk import DiskStore

SUMMARY = "How long it takes to open a disk store, and a cache on it up to the end of its first collection."

# As the first argument: measure one start, in this process, and print it as JSON.
CHILD = "--measure"
_VERSIONS_A_MODEL = 5
_FILES_A_VERSION = 4
_ENTRY_BYTES = 16


async def build(root: Path, entries: int) -> None:
    """Write a store of so many blobs, four to a version and five versions to a model."""
    async with DiskStore(root):
        pass
    number = 0
    for model_number in range(-(-entries // (_VERSIONS_A_MODEL * _FILES_A_VERSION))):
        model = f"org/model-{model_number}"
        index = Index(model)
        for version in range(_VERSIONS_A_MODEL):
            files = []
            for place in range(_FILES_A_VERSION):
                content_id = sha256_id(str(number).encode())
                if number < entries:
                    blob = root / "blobs" / content_id[:2] / content_id
                    blob.parent.mkdir(exist_ok=True)
                    blob.write_bytes(bytes(_ENTRY_BYTES))
                item = OriginObject(f"{model}/{version}/file-{place}", '"etag"')
                files.append(File(f"file-{place}", _ENTRY_BYTES, None, content_id, "application/json", item))
                number += 1
            manifest = Manifest(model, str(version), 1000 + version, tuple(files))
            write(root / "models" / manifest_name(model, str(version)), manifest.dump())
            index = index.with_version(IndexEntry(str(version), 1000 + version, sha256_id(manifest.dump())))
        write(root / "models" / index_name(model), index.dump())


def write(path: Path, data: bytes) -> None:
    """Write a document, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def measure(root: Path) -> dict[str, float]:
    """Open the store once, and a cache on it; return seconds."""
    began = time.perf_counter()
    async with DiskStore(root) as store:
        opened = time.perf_counter()
        blobs = store.usage().blobs
        origin = TreeOrigin(DirectoryOrigin(root), Layout())
        async with Cache(origin, store, CacheSettings(), NullObserver()) as cache:
            await cache.gc()
        collected = time.perf_counter()
        assert store.usage().blobs == blobs
    return {"blobs": blobs, "open": opened - began, "collected": collected - opened}


def run(profile: Profile, results: Results) -> None:
    """Measure in processes of their own, all on one store."""
    entries = profile.pick(quick=500, bench=10_000, full=10_000)
    with workplace("store-open") as folder:
        root = folder / "store"
        asyncio.run(build(root, entries))
        command = [sys.executable, "-m", "benchmarks.store_open", CHILD, str(root)]

        def once() -> dict[str, float]:
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
            figures: dict[str, float] = json.loads(done.stdout)
            return figures

        # Its documents are in the page cache from now on.
        once()
        figures = [once() for _ in range(profile.pick(quick=1, bench=5, full=15))]
    for name, what in (("open", "the store alone"), ("collected", "a cache on it, first collection")):
        times = [figure[name] * 1000 for figure in figures]
        key = f"{figures[0]['blobs']:.0f} blobs: {what}"
        results.add("store_open", key, "hotstart", times, "ms", page_cache=WARM)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(asyncio.run(measure(Path(sys.argv[2])))))
    else:
        sys.exit(main("store_open", SUMMARY, run))
