"""With the installed commands: what is published while a proxy runs is in its store before anyone asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Loads
from tests.support.deadlines import wait_until
from tests.support.processes import Process, Processes, Proxy, free_port, get
from tests.support.s3 import S3Server
from tests.support.sqs import SqsServer, object_created, sns_envelope
from tests.support.valkey import ValkeyServer

SELDOM = ("--alias-ttl", "1h")


@pytest.fixture
def origin(tmp_path: Path) -> str:
    return f"file://{tmp_path}/origin"


@pytest.fixture
def store(processes: Processes) -> Path:
    """A store whose path is short enough for its admin socket."""
    return processes._sockets / "store"


def holds(proxy: Proxy, reference: str) -> bool:
    """Whether all identity bytes of a version are in a proxy's store."""
    model, _, version = reference.partition("@")
    status, body = proxy.get(f"/v1/models/{model}")
    cached = json.loads(body)["cached"].get(version, {}) if status == 200 else {}
    _, manifest = proxy.get(f"/v1/models/{reference}")
    files = json.loads(manifest).get("files", [])
    return bool(files) and all(cached.get(file["path"]) == file["size"] for file in files)


def arrived(proxy: Proxy, learned: str) -> Callable[[], bool]:
    """Return whether a version arrived that way, and is warm."""

    def look() -> bool:
        return (
            proxy.metric("hotstart_arrivals_total", learned=learned) == 1
            and proxy.metric("hotstart_arrival_seconds_count") == 1
        )

    return look


def readiness(port: int) -> tuple[int, Any]:
    status, body = get("/healthz/ready", port=port)
    return status, json.loads(body)


def waiting_proxy(processes: Processes, origin: str, store: Path, *arguments: str) -> tuple[Process, int]:
    """Start a proxy and wait until it listens, ready or not."""
    port = free_port()
    process = processes.hotstart(
        "serve", "--origin", origin, "--store", f"disk:{store}", "--listen", f"127.0.0.1:{port}", *arguments
    )
    process.wait_for_output("serves")
    return process, port


def test_a_poll_finds_a_new_version(
    processes: Processes, loads: Loads, publish: Callable[..., Path], origin: str, tmp_path: Path
) -> None:
    """Version 2 is published while the proxy holds version 1, and is whole in its store before a load."""
    first = publish("org/bert@1", origin, environment={}, seed=1)
    proxy = processes.serve(origin, tmp_path / "store", "--alias-ttl", "200ms")
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert", client), first, "1")
    second = publish("org/bert@2", origin, environment={}, seed=2)
    wait_until("version 2", arrived(proxy, "poll"))
    assert holds(proxy, "org/bert@2")
    fetched = proxy.metric("hotstart_origin_bytes_total")
    loads.check(loads.run("org/bert", client), second, "2")
    assert proxy.metric("hotstart_origin_bytes_total") == fetched
    assert "a version is warm" in proxy.process.stderr


def test_a_publisher_notifies(
    processes: Processes, loads: Loads, publish: Callable[..., Path], origin: str, store: Path
) -> None:
    """A proxy that is told of a publish and of an alias looks at once, however seldom it polls."""
    first = publish("org/bert@1", origin, "--alias", "prod", environment={}, seed=1)
    proxy = processes.serve(origin, store, *SELDOM)
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert", client), first, "1")
    notify = ("--notify", f"unix:{store}/admin.sock")
    second = publish("org/bert@2", origin, *notify, environment={}, seed=2)
    wait_until("version 2", arrived(proxy, "notify"))
    assert holds(proxy, "org/bert@2")
    processes.run("alias", "org/bert", "prod=2", "--origin", origin, *notify).check()
    wait_until("the alias", lambda: proxy.metric("hotstart_arrivals_total", learned="notify") == 2)
    loads.check(loads.run("org/bert", client), second, "2")


def test_one_worker_polls_and_any_can_be_told(
    processes: Processes, loads: Loads, publish: Callable[..., Path], origin: str, store: Path
) -> None:
    """With several workers a new version is filled once, whether one of them finds it or another is told."""
    folder = publish("org/bert@1", origin, environment={}, seed=1)
    proxy = processes.serve(origin, store, "--workers", "3", "--alias-ttl", "200ms")
    loads.check(loads.run("org/bert", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    before = proxy.metric("hotstart_origin_bytes_total")
    publish("org/bert@2", origin, environment={}, seed=2)
    wait_until("version 2", lambda: proxy.metric("hotstart_arrival_seconds_count") == 1)
    third = publish("org/bert@3", origin, "--notify", f"unix:{store}/admin.sock", environment={}, seed=3)
    wait_until("version 3", lambda: proxy.metric("hotstart_arrival_seconds_count") >= 2)
    loads.check(loads.run("org/bert", {"HOTSTART_PROXY": proxy.url}), third, "3")
    size = sum(path.stat().st_size for path in third.rglob("*") if path.is_file())
    assert proxy.metric("hotstart_origin_bytes_total") - before <= 2.1 * size


def test_readiness_waits_for_a_version(
    processes: Processes, publish: Callable[..., Path], origin: str, tmp_path: Path
) -> None:
    """A proxy that waits for a model is live and not ready until the model is published and filled."""
    publish("org/other@1", origin, environment={}, seed=1)
    arguments = ("--ready-when", "org/bert@prod", "--alias-ttl", "200ms")
    _, port = waiting_proxy(processes, origin, tmp_path / "store", *arguments)
    status, body = readiness(port)
    assert (status, body["status"]) == (503, "warming")
    assert body["warming"][0].startswith("org/bert@prod is not here: ")
    assert get("/healthz/live", port=port)[0] == 200
    folder = publish("org/bert@1", origin, "--alias", "prod", environment={}, seed=1)
    wait_until("readiness", lambda: readiness(port)[0] == 200)
    cached = json.loads(get("/v1/models/org/bert", port=port)[1])["cached"]["1"]
    assert cached["model.safetensors"] == (folder / "model.safetensors").stat().st_size


def test_readiness_waits_no_longer_than_told(processes: Processes, origin: str, tmp_path: Path) -> None:
    """After the deadline the proxy is ready, and readiness, log and metrics say what is missing."""
    (tmp_path / "origin").mkdir()
    process, port = waiting_proxy(
        processes, origin, tmp_path / "store", "--ready-when", "org/bert@prod", "--ready-within", "100ms"
    )
    wait_until("readiness", lambda: readiness(port)[0] == 200)
    _, body = readiness(port)
    assert body["status"] == "degraded"
    assert body["degraded"] == ["--ready-when: org/bert@prod is not here after 0.1 s: no model org/bert"]
    assert "warming" not in body
    metrics = get("/metrics", port=port)[1].decode()
    assert 'hotstart_ready_when_missing{late="true"} 1.0' in metrics
    assert "hotstart_degraded 1.0" in metrics
    assert "ready, though not warm" in process.stderr
    assert process.terminate().status == 0


def test_events_of_s3_in_a_queue(
    processes: Processes,
    loads: Loads,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    """A version in S3 whose event comes by SQS is warm before a load, however seldom the proxy polls."""
    origin = f"s3://{s3_bucket}/live"
    queue = SqsServer(processes)
    queue.start()
    environment = {**queue.environment, **s3_server.environment()}
    first = publish("org/bert@1", origin, environment=s3_server.environment(), seed=1)
    arguments = (*SELDOM, "--sqs-queue", queue.queue_url)
    proxy = processes.serve(origin, tmp_path / "store", *arguments, environment=environment)
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert", client), first, "1")
    second = publish("org/bert@2", origin, environment=s3_server.environment(), seed=2)
    for key in ("live/org/bert/2/model.safetensors", "live/org/bert/.hotstart/index.json"):
        queue.send(sns_envelope(object_created(s3_bucket, key)))
    wait_until("version 2", arrived(proxy, "sqs"))
    fetched = proxy.metric("hotstart_origin_bytes_total")
    loads.check(loads.run("org/bert", client), second, "2")
    assert proxy.metric("hotstart_origin_bytes_total") == fetched
    wait_until("an empty queue", lambda: queue.left() == 0)
    queue.close()


def test_one_notified_proxy_tells_the_others_on_its_redis(
    processes: Processes, loads: Loads, publish: Callable[..., Path], origin: str, tmp_path: Path
) -> None:
    """Of two proxies on one Redis one is notified of a version; the other hears of it and has it as well."""
    folder = publish("org/bert@1", origin, environment={}, seed=1)
    with ValkeyServer() as server:
        admin = free_port()
        listen = ("--store", server.url, *SELDOM)
        told = processes.serve(origin, tmp_path / "none", *listen, "--admin-listen", f"127.0.0.1:{admin}")
        other = processes.serve(origin, tmp_path / "none", *listen)
        for proxy in (told, other):
            loads.check(loads.run("org/bert", {"HOTSTART_PROXY": proxy.url}), folder, "1")
        second = publish(
            "org/bert@2", origin, "--notify", f"http://127.0.0.1:{admin}", environment={}, seed=2
        )
        wait_until("the notice", lambda: told.metric("hotstart_arrivals_total", learned="notify") == 1)
        wait_until("the announcement", lambda: other.metric("hotstart_arrivals_total", learned="pubsub") == 1)
        wait_until("version 2", lambda: holds(other, "org/bert@2"))
        fetched = other.metric("hotstart_origin_bytes_total")
        loads.check(loads.run("org/bert", {"HOTSTART_PROXY": other.url}), second, "2")
        assert other.metric("hotstart_origin_bytes_total") == fetched
