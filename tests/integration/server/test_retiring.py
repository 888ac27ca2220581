"""A version that is retired while somebody reads it slowly."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.server.wire import ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes

DATA = random.Random(1).randbytes(24 * 1024 * 1024)


def publish_version(root: Path, folder: Path, version: str, data: bytes) -> None:
    folder.mkdir()
    (folder / "big.bin").write_bytes(data)

    async def run() -> None:
        async with DirectoryOrigin(root) as origin:
            await publish(origin, folder, Reference("org/bert", version))

    asyncio.run(run())


def test_a_slow_reader_of_a_retired_version(processes: Processes, tmp_path: Path, store: Path) -> None:
    """A reader that is in the middle of a version when it is retired gets every byte of it."""
    root = tmp_path / "origin"
    root.mkdir()
    publish_version(root, tmp_path / "1", "1", DATA)
    proxy = processes.serve(f"file://{root}", store, "--keep-versions", "1", "--alias-ttl", "50ms")
    ask(store / "admin.sock", "/v1/models/org/bert@1:warm", method="POST")
    manifest = json.loads((root / "org/bert/1/.hotstart/manifest.json").read_bytes())
    content_id = manifest["files"][0]["id"]
    blob = store / "blobs" / content_id[:2] / content_id
    assert blob.exists()
    with connected(proxy.unix, receive_buffer=64 * 1024) as wire:
        wire.request("GET", "/v1/models/org/bert@1/big.bin")
        status, headers = wire.head()
        assert (status, headers["cache-status"]) == (200, "hotstart; hit")
        got = wire.exactly(1_000_000)
        publish_version(root, tmp_path / "2", "2", b"another")

        def is_retired() -> bool:
            return ask(proxy.port, "/v1/models/org/bert").json()["kept"] == ["2"] and not blob.exists()

        wait_until("version 1 to be retired", is_retired)
        got += wire.exactly(len(DATA) - len(got))
    assert got == DATA
    again = ask(proxy.port, "/v1/models/org/bert@1/big.bin")
    assert (again.headers["cache-status"], again.body == DATA) == ("hotstart; fwd=miss", True)
