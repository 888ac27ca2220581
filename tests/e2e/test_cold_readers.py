"""Many cold readers of one file cost the origin one copy of it."""

from __future__ import annotations

import hashlib
import http.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.models import minilm_folder
from tests.support.processes import Processes
from tests.support.s3 import S3Server

READERS = 64
# Index, manifest and what else a proxy looks up before the first byte.
LOOKED_UP_BYTES = 200_000


def test_sixty_four_cold_readers_cost_one_copy(
    processes: Processes, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """64 concurrent cold readers of a 91 MB file all get it right, and S3 counts one copy of its bytes."""
    file = minilm_folder() / "model.safetensors"
    model = tmp_path / "model"
    model.mkdir()
    (model / file.name).symlink_to(file)
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    processes.run("publish", str(model), "minilm@1", "--origin", origin, environment=environment).check()
    proxy = processes.serve(origin, tmp_path / "store", environment=environment)
    before = s3_server.bytes_sent(s3_bucket)
    together = Barrier(READERS)

    def read(_: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE_SECONDS)
        together.wait()
        connection.request("GET", "/v1/models/library/minilm@1/model.safetensors")
        answer = connection.getresponse()
        assert answer.status == 200
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(1024 * 1024))
        while count := answer.readinto(buffer):
            digest.update(buffer[:count])
        connection.close()
        return digest.hexdigest()

    with ThreadPoolExecutor(READERS) as pool:
        found = set(pool.map(read, range(READERS)))
    with file.open("rb") as stream:
        assert found == {hashlib.file_digest(stream, "sha256").hexdigest()}
    size = file.stat().st_size
    assert size <= s3_server.bytes_sent(s3_bucket) - before <= size + LOOKED_UP_BYTES
