"""Many cold readers of one file cost the origin one copy of it."""

from __future__ import annotations

import hashlib
import http.client
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.models import make_model, minilm_folder
from tests.support.processes import Processes, Proxy
from tests.support.s3 import S3Server

READERS = 64
# Index, manifest and what else a worker looks up before the first byte.
LOOKED_UP_BYTES = 200_000


def test_sixty_four_cold_readers_cost_one_copy(
    processes: Processes, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """64 concurrent cold readers of a 91 MB file all get it right, and S3 counts one copy of its bytes."""
    file = minilm_folder() / "model.safetensors"
    model = tmp_path / "model"
    model.mkdir()
    (model / file.name).symlink_to(file)
    published = Published(processes, s3_server, s3_bucket, model)
    proxy = published.serve(tmp_path / "store")
    assert published.size <= read_cold(proxy, published) <= published.size + LOOKED_UP_BYTES


def test_cold_readers_over_four_workers_cost_one_copy(
    processes: Processes, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """Workers that share a store share the fill: S3's count and their own gathered one show one copy."""
    published = Published(processes, s3_server, s3_bucket, make_model(tmp_path / "model", mebibytes=24))
    proxy = published.serve(tmp_path / "store", "--workers", "4")
    proxy.process.wait_for_output("with 4 workers")
    assert published.size <= read_cold(proxy, published) <= published.size + 4 * LOOKED_UP_BYTES
    assert proxy.metric("hotstart_origin_bytes_total") == published.size
    assert proxy.metric("hotstart_answered_bytes_total") == READERS * published.size
    took_part = set(re.findall(r"event=request worker=(\d) .*route=file", proxy.process.stderr))
    assert len(took_part) > 1


class Published:
    """A model in a bucket, published with the installed command.

    Attributes:
        file: of its weights, as it was published.
        size: of that file, in bytes.
    """

    def __init__(self, processes: Processes, s3: S3Server, bucket: str, folder: Path) -> None:
        self._processes = processes
        self._s3 = s3
        self._bucket = bucket
        self._origin = f"s3://{bucket}"
        self.file = folder / "model.safetensors"
        self.size = self.file.stat().st_size
        processes.run(
            "publish", str(folder), "model@1", "--origin", self._origin, environment=s3.environment()
        ).check()

    def serve(self, store: Path, *arguments: str) -> Proxy:
        """Start a proxy before it."""
        return self._processes.serve(self._origin, store, *arguments, environment=self._s3.environment())

    def bytes_sent(self) -> int:
        """Return what S3 says that it sent."""
        return self._s3.bytes_sent(self._bucket)

    def digest(self) -> str:
        """Return the sha256 of the weights."""
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def read_cold(proxy: Proxy, published: Published) -> int:
    """Let all readers read the weights at once; check what they get, and return what S3 sent for it."""
    before = published.bytes_sent()
    together = Barrier(READERS)

    def read(_: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE_SECONDS)
        together.wait()
        connection.request("GET", "/v1/models/library/model@1/model.safetensors")
        answer = connection.getresponse()
        assert answer.status == 200
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(1024 * 1024))
        while count := answer.readinto(buffer):
            digest.update(buffer[:count])
        connection.close()
        return digest.hexdigest()

    with ThreadPoolExecutor(READERS) as pool:
        assert set(pool.map(read, range(READERS))) == {published.digest()}
    return published.bytes_sent() - before
