"""How long it takes to open a disk store of 10,000 blobs: python benchmarks/store_open.py [--entries N].

Two starts are measured, each in a process of its own: the store alone, and a cache on it up to the end of
its first collection, which reads every manifest. Page caches are warm; the first run shows the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    """Print the machine, the versions and every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(asyncio.run(measure(arguments.measure))))
        return
    print(f"machine  {platform.platform()}, {os.cpu_count()} CPUs; Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        asyncio.run(build(root, arguments.entries))
        runs = []
        for _ in range(arguments.runs):
            command = [sys.executable, __file__, "--measure", str(root)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(answer.stdout))
    print(f"blobs    {runs[0]['blobs']:.0f}")
    for name, what in (("open", "store open"), ("collected", "first gc")):
        times = [run[name] * 1000 for run in runs]
        listed = " ".join(f"{value:.0f}" for value in times)
        print(f"{what:<11}median {statistics.median(times):.0f} ms  (runs: {listed})")


if __name__ == "__main__":
    main()
