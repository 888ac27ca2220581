"""The shaping proxy before a real S3 server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from botocore.session import Session

import hotstart
from benchmarks.shaping import Shape, Shaper
from tests.support.deadlines import wait_until
from tests.support.models import assert_same_tensors, make_model
from tests.support.processes import Processes
from tests.support.s3 import S3Server


@pytest.fixture
def shaper(s3_server: S3Server) -> Iterator[Shaper]:
    """A shaper before the server, without limits."""
    server = urlsplit(s3_server.endpoint)
    assert server.hostname is not None
    assert server.port is not None
    with Shaper(server.hostname, server.port, Shape()) as running:
        yield running


def test_what_is_signed_for_it_is_verified_behind_it(
    s3_server: S3Server,
    s3_bucket: str,
    shaper: Shaper,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A load through it is bit-identical, and it counts the bytes of the weights once."""
    folder = make_model(tmp_path_factory.mktemp("model") / "model", mebibytes=24)
    origin = f"s3://{s3_bucket}/models"
    environment = s3_server.environment()
    processes.run("publish", str(folder), "org/bert@1", "--origin", origin, environment=environment).check()
    for name, text in {**environment, "AWS_ENDPOINT_URL_S3": shaper.url}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("HOTSTART_PROXY", raising=False)
    tensors = hotstart.load("org/bert@1", origin=origin, compression="none")
    weights = folder / "model.safetensors"
    assert_same_tensors(tensors, weights)
    asked = [item for item in shaper.exchanges() if item.path.endswith("/model.safetensors")]
    assert sum(item.body_bytes for item in asked) == weights.stat().st_size
    assert all(item.method == "GET" for item in asked)
    assert shaper.most_at_once >= 1


def test_a_wrong_signature_is_still_refused(
    s3_server: S3Server, s3_bucket: str, shaper: Shaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets nothing through that the server would not."""
    environment = {**s3_server.environment(), "AWS_ENDPOINT_URL_S3": shaper.url}
    for name, text in {**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(hotstart.AllSourcesFailed, match="SignatureDoesNotMatch"):
        hotstart.open("org/bert@1", origin=f"s3://{s3_bucket}/models")


def test_answers_are_shaped(s3_server: S3Server, s3_bucket: str, shaper: Shaper) -> None:
    """No answer begins before its time, the second on a connection neither, nor is a body above its rate."""
    data = random.Random(0).randbytes(2_000_000)
    s3_server.put(s3_bucket, "object", data)
    shaper.reset(Shape(0.05, 20e6))
    client = Session().create_client(
        "s3",
        region_name=s3_server.region,
        endpoint_url=shaper.url,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=1),
    )
    for _ in range(2):
        began = time.perf_counter()
        body = client.get_object(Bucket=s3_bucket, Key="object")["Body"]
        # At least: that a machine is slow, no assertion minds.
        assert time.perf_counter() - began >= 0.05
        assert body.read() == data
        assert time.perf_counter() - began >= 0.05 + (len(data) - 512 * 1024) / 20e6
    client.close()
    # It counts what it has sent, which the client may have by then.
    sent = [len(data), len(data)]
    wait_until("the last count", lambda: [item.body_bytes for item in shaper.exchanges()] == sent)
