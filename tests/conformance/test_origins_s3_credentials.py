"""Credentials that are replaced underneath, and clocks that are wrong."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.compat
import pytest

from hotstart.wire.manifest import OriginObject
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.origins import s3_errors
from hotstart_proxy.origins.base import ObjectInfo, OriginDenied
from hotstart_proxy.origins.s3 import S3Origin, S3Settings
from tests.conformance.origins import item_of, noise, read_range
from tests.support import fault_s3
from tests.support.fault_s3 import BUCKET, FaultS3
from tests.support.s3 import S3Server

DATA = noise(1000)
KEY = "a/weights"


class Told(NullObserver):
    """Remembers why requests were sent again."""

    def __init__(self) -> None:
        self.retries: list[str] = []

    def origin_retried(self, reason: str) -> None:
        self.retries.append(reason)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultS3]:
    """A server with one object; how to sign is left to the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    folder = tmp_path / "objects"
    (folder / "a").mkdir(parents=True)
    (folder / KEY).write_bytes(DATA)
    with FaultS3(folder) as s3:
        yield s3


@asynccontextmanager
async def origin_at(url: str, bucket: str = BUCKET) -> AsyncIterator[tuple[S3Origin, Told]]:
    told = Told()
    async with S3Origin(bucket, "", S3Settings(endpoint=url), told) as origin:
        yield origin, told


async def item(origin: S3Origin) -> OriginObject:
    info = await origin.head(KEY)
    assert isinstance(info, ObjectInfo)
    return item_of(info)


def write_keys(path: Path, access_key: str) -> None:
    """Replace a credentials file as its rotators do: all at once."""
    text = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = s\naws_session_token = t\n"
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


@pytest.fixture
def file(tmp_path: Path, s3: FaultS3, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared credentials file, with the key OLD."""
    path = tmp_path / "credentials"
    write_keys(path, "OLD")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
async def test_a_rotated_file_is_read_again(s3: FaultS3, file: Path, code: str) -> None:
    """When keys are refused the file is read again, once, and every kind of request goes on."""
    async with origin_at(s3.url) as (origin, told):
        pinned = await item(origin)
        asks: list[Callable[[], Awaitable[object]]] = [
            lambda: read_range(origin, pinned, 0, len(DATA)),
            lambda: origin.read(KEY),
            lambda: origin.head(KEY),
            lambda: origin.list("", recursive=True),
        ]
        for number, ask in enumerate(asks):
            s3.refused_keys["OLD" if number == 0 else f"NEW{number - 1}"] = code
            write_keys(file, f"NEW{number}")
            assert await ask()
            assert s3.seen[-1].access_key == f"NEW{number}"
        assert told.retries == ["credentials"] * 4


async def test_refused_keys_without_others(s3: FaultS3, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where there are no other keys the error comes at once, names the cause and what to do."""
    async with origin_at(s3.url) as (origin, told):
        pinned = await item(origin)
        s3.refused_keys["OLD"] = "ExpiredToken"
        before = len(s3.seen)
        with pytest.raises(OriginDenied, match=r"ExpiredToken.*session has ended: renew"):
            await read_range(origin, pinned, 0, 10)
        assert len(s3.seen) == before + 1
        assert told.retries == []
        s3.refused_keys["OLD"] = "InvalidAccessKeyId"
        with pytest.raises(OriginDenied, match="access key was deleted"):
            await read_range(origin, pinned, 0, 10)


async def test_a_reload_is_logged(s3: FaultS3, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that credentials were reloaded and what the origin had said of the old ones; no secret."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        s3.refused_keys["OLD"] = "ExpiredToken"
        write_keys(file, "NEW")
        with caplog.at_level(logging.INFO, "hotstart_proxy"):
            await read_range(origin, pinned, 0, 10)
    (record,) = caplog.records
    assert record.getMessage() == "credentials reloaded"
    fields = record.__dict__["fields"]
    assert "ExpiredToken" in fields["refused"]
    assert fields["origin"] == f"s3://{BUCKET}"


async def test_a_url_signed_after_a_rotation_is_signed_by_the_new_keys(s3: FaultS3, file: Path) -> None:
    """Pre-signing goes on with the keys that the last reload found."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        s3.refused_keys["OLD"] = "ExpiredToken"
        write_keys(file, "NEW")
        await read_range(origin, pinned, 0, 10)
        signed = await origin.presign(pinned, 60)
        assert signed is not None
        assert parse_qs(urlsplit(signed.url).query)["X-Amz-Credential"][0].startswith("NEW/")


async def test_a_missing_right_is_no_reason_to_reload(s3: FaultS3, file: Path) -> None:
    """AccessDenied says nothing against the keys: they are kept, though there are others by now."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        write_keys(file, "NEW")
        s3.fail(fault_s3.denied("AccessDenied"), times=1)
        with pytest.raises(OriginDenied, match="AccessDenied"):
            await read_range(origin, pinned, 0, 10)
        assert await read_range(origin, pinned, 0, 10) == DATA[:10]
        assert s3.seen[-1].access_key == "OLD"


class Container(ThreadingHTTPServer):
    """The credentials endpoint of a container: hands out what it is told, and counts.

    Attributes:
        access_key, lifetime: of what it hands out.
        asked: how often.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ContainerRequest)
        self.access_key = "OLD"
        self.lifetime = timedelta(hours=6)
        self.asked = 0
        self.url = f"http://127.0.0.1:{self.server_port}/credentials"


class _ContainerRequest(BaseHTTPRequestHandler):
    server: Container

    def do_GET(self) -> None:
        self.server.asked += 1
        ends_at = botocore.compat.get_current_datetime() + self.server.lifetime
        document = {
            "AccessKeyId": self.server.access_key,
            "SecretAccessKey": "s",
            "Token": "t",
            "Expiration": ends_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing."""


@pytest.fixture
def container(s3: FaultS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    with Container() as container:
        thread = threading.Thread(target=container.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url)
        yield container
        container.shutdown()
        thread.join()


async def test_a_container_that_hands_out_others(s3: FaultS3, container: Container) -> None:
    """A session that is ended early is replaced from the container's endpoint, asked once more."""
    async with origin_at(s3.url) as (origin, told):
        pinned = await item(origin)
        assert container.asked == 1
        s3.refused_keys["OLD"] = "ExpiredToken"
        container.access_key = "NEW"
        assert await read_range(origin, pinned, 0, 10) == DATA[:10]
        assert container.asked == 2
        assert told.retries == ["credentials"]


async def test_the_endpoint_is_not_asked_by_every_request(s3: FaultS3, container: Container) -> None:
    """While nothing new is handed out, refused requests do not each ask the endpoint."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        s3.refused_keys["OLD"] = "ExpiredToken"
        for _ in range(20):
            with pytest.raises(OriginDenied):
                await read_range(origin, pinned, 0, 10)
        assert container.asked <= 3


async def test_urls_end_with_the_session(s3: FaultS3, container: Container) -> None:
    """A URL lives no longer than the session that signs it, before a rotation and after."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        signed = await origin.presign(pinned, 7 * 24 * 3600)
        assert signed is not None
        assert 5 * 3600 < signed.expires_in_seconds <= 6 * 3600
        s3.refused_keys["OLD"] = "ExpiredToken"
        container.access_key, container.lifetime = "NEW", timedelta(hours=2)
        await read_range(origin, pinned, 0, 10)
        signed = await origin.presign(pinned, 7 * 24 * 3600)
        assert signed is not None
        assert 3600 < signed.expires_in_seconds <= 2 * 3600
        query = parse_qs(urlsplit(signed.url).query)
        assert query["X-Amz-Credential"][0].startswith("NEW/")
        assert int(query["X-Amz-Expires"][0]) == signed.expires_in_seconds


# Clocks. The server here is a real one, which verifies.


@pytest.mark.parametrize(("hours", "words"), [(1, "60 minutes ahead of"), (-1, "60 minutes behind")])
async def test_a_clock_that_is_wrong(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, hours: int, words: str
) -> None:
    """With a clock wrong by an hour the error names the minutes and the way; no URL is signed by it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.put(s3_bucket, KEY, DATA)
    async with origin_at(s3_server.endpoint, s3_bucket) as (origin, _):
        pinned = await item(origin)
        true = botocore.compat.get_current_datetime

        def wrong(*arguments: object) -> datetime:
            moment: datetime = true(*arguments) + timedelta(hours=hours)
            return moment

        with monkeypatch.context() as clock:
            # The seam at which requests are dated.
            clock.setattr(botocore.auth, "get_current_datetime", wrong)
            clock.setattr(s3_errors, "get_current_datetime", wrong)
            asks: list[Callable[[], Awaitable[object]]] = [
                lambda: read_range(origin, pinned, 0, 10),
                lambda: origin.read(KEY),
            ]
            for ask in asks:
                with pytest.raises(OriginDenied, match=rf"clock is {words} the origin's.*NTP"):
                    await ask()
            with pytest.raises(OriginDenied, match=words):
                await origin.presign(pinned, 60)
        # Set right, everything goes on by itself.
        assert await read_range(origin, pinned, 0, 10) == DATA[:10]
        assert await origin.presign(pinned, 60) is not None


async def test_a_skewed_clock_without_a_date(s3: FaultS3, file: Path) -> None:
    """A server that does not say what time it is leaves the minutes out, and nothing else."""
    async with origin_at(s3.url) as (origin, _):
        pinned = await item(origin)
        s3.fail(fault_s3.Fault(403, "RequestTimeTooSkewed", {"Date": "yesterday"}))
        with pytest.raises(OriginDenied, match=re.escape("differs too much from the origin's")):
            await read_range(origin, pinned, 0, 10)
