"""Several proxies on one folder: each the same to its clients, and together one to the origin."""

from __future__ import annotations

import hashlib
import http.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.models import minilm_folder
from tests.support.processes import Processes, Proxy
from tests.support.s3 import S3Server

PROXIES = 3
READERS_EACH = 4
# Index, manifest and what else each proxy looks up before the first byte.
LOOKED_UP_BYTES = PROXIES * 200_000
PATH = "/v1/models/library/minilm@1/model.safetensors"


def read(proxy: Proxy, together: Barrier | None = None) -> str:
    """Read the file from its beginning to its end; return its sha256."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE_SECONDS)
    try:
        if together is not None:
            together.wait()
        connection.request("GET", PATH)
        answer = connection.getresponse()
        assert answer.status == 200
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(1024 * 1024))
        while count := answer.readinto(buffer):
            digest.update(buffer[:count])
        return digest.hexdigest()
    finally:
        connection.close()


def test_cold_readers_of_all_proxies_cost_one_copy(
    processes: Processes, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """12 cold readers over three proxies on one folder all get a 91 MB file right; S3 counts one copy of it.

    One of the proxies is killed afterwards: the others go on, and a fourth finds all there.
    """
    file = minilm_folder() / "model.safetensors"
    model = tmp_path / "model"
    model.mkdir()
    (model / file.name).symlink_to(file)
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    processes.run("publish", str(model), "minilm@1", "--origin", origin, environment=environment).check()
    store = tmp_path / "store"
    proxies = [processes.serve(origin, store, environment=environment) for _ in range(PROXIES)]
    before = s3_server.bytes_sent(s3_bucket)
    together = Barrier(PROXIES * READERS_EACH)
    with ThreadPoolExecutor(PROXIES * READERS_EACH) as pool:
        found = list(pool.map(lambda proxy: read(proxy, together), proxies * READERS_EACH))
    with file.open("rb") as stream:
        right = hashlib.file_digest(stream, "sha256").hexdigest()
    assert found == [right] * (PROXIES * READERS_EACH)
    size = file.stat().st_size
    wait_until("the commit", lambda: (store / "blobs" / right[:2] / right).exists())
    assert size <= s3_server.bytes_sent(s3_bucket) - before <= size + LOOKED_UP_BYTES

    proxies[0].process.kill()
    newcomer = processes.serve(origin, store, environment=environment)
    assert [read(proxy) for proxy in (*proxies[1:], newcomer)] == [right] * PROXIES
    assert s3_server.bytes_sent(s3_bucket) - before <= size + 2 * LOOKED_UP_BYTES
    wait_until("an empty fills folder", lambda: not list((store / "fills").iterdir()))
