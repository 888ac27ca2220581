"""Redirects to a real S3 server, and what is answered when it is away."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hotstart.wire.opening import Opening
from hotstart.wire.references import Reference
from hotstart_proxy.origins.s3 import S3Settings
from hotstart_proxy.origins.urls import open_origin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.server.conftest import Published
from tests.integration.server.wire import Answer, ask, connected
from tests.support.processes import Processes, Proxy, free_port
from tests.support.s3 import S3Server

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"
BIG = "/v1/models/org/bert@7/big.bin"
OLD = "/v1/models/org/bert@6/model.safetensors"


async def _publish(url: str, environment: dict[str, str], folders: dict[str, Path]) -> None:
    async with open_origin(url, environment, S3Settings()) as origin:
        for version, folder in folders.items():
            await publish(origin, folder, Reference("org/bert", version), alias="prod")


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server, published: Published, monkeypatch_module: pytest.MonkeyPatch) -> str:
    """The two versions, in a bucket of a real S3 server."""
    name = s3_server.create_bucket()
    # aiobotocore takes credentials from the process's environment.
    for variable, value in s3_server.environment().items():
        monkeypatch_module.setenv(variable, value)
    asyncio.run(_publish(f"s3://{name}/models", dict(os.environ), published.folders))
    return name


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def redirecting(
    bucket: str, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy that keeps one version besides aliased ones: 7 is kept, 6 is retired."""
    folder = tmp_path_factory.mktemp("redirecting")
    with Processes(folder / "processes") as processes:
        yield processes.serve(
            f"s3://{bucket}/models",
            folder / "store",
            "--keep-versions",
            "1",
            environment=s3_server.environment(),
        )


def old(published: Published) -> bytes:
    return (published.folders["6"] / "model.safetensors").read_bytes()


def fetch(answer: Answer, range_header: str | None = None) -> bytes:
    request = urllib.request.Request(answer.headers["location"])
    if range_header is not None:
        request.add_header("Range", range_header)
    with urllib.request.urlopen(request) as response:
        data: bytes = response.read()
        return data


def test_a_retired_version_is_redirected(redirecting: Proxy, published: Published) -> None:
    """A plain GET of what is not kept gets a 307 to a SigV4 URL that gives the bytes."""
    before = redirecting.metric("hotstart_redirects_total")
    answer = ask(redirecting.port, OLD)
    assert (answer.status, answer.body) == (307, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cache-status"] == "hotstart; fwd=miss; detail=redirect"
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["3600"]
    assert fetch(answer) == old(published)
    ranged = ask(redirecting.port, OLD, {"Range": "bytes=5-9"})
    assert ranged.status == 307
    assert fetch(ranged, "bytes=5-9") == old(published)[5:10]
    assert redirecting.metric("hotstart_redirects_total") == before + 2
    assert "X-Amz" not in redirecting.process.stderr


def test_who_is_not_redirected_is_passed_through(redirecting: Proxy, published: Published) -> None:
    """HEAD, validators that only we know, and a client that says no are answered here."""
    tag = ask(redirecting.port, OLD, method="HEAD").headers["etag"]
    for headers in (
        {"If-Match": tag},
        {"If-Range": tag, "Range": "bytes=5-9"},
        {"Hotstart-Redirect": "no"},
        {"Hotstart-Redirect": "no", "Range": "bytes=5-9"},
    ):
        answer = ask(redirecting.port, OLD, headers)
        whole = "Range" not in headers
        assert answer.status == (200 if whole else 206)
        assert answer.body == (old(published) if whole else old(published)[5:10])
        assert answer.headers["cache-status"] == "hotstart; fwd=miss"
    assert ask(redirecting.port, OLD, {"If-None-Match": tag}).status == 304
    ask(redirecting.port, OLD, {"If-Match": '"x"'}).problem(412, "precondition-failed")
    ask(redirecting.port, OLD, {"Range": "bytes=999999999-"}).problem(416, "range-not-satisfiable")


def test_a_kept_version_is_served_here(redirecting: Proxy, published: Published) -> None:
    """What is kept is filled and streamed, not redirected."""
    answer = ask(redirecting.port, WEIGHTS)
    assert answer.status == 200
    assert answer.body == (published.folders["7"] / "model.safetensors").read_bytes()


def test_a_miss_is_redirected_where_that_is_asked_for(
    processes: Processes, bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    """--on-miss redirect sends the first reader away; who may not be redirected gets a stream."""
    proxy = processes.serve(
        f"s3://{bucket}/models",
        tmp_path / "store",
        "--on-miss",
        "redirect",
        environment=s3_server.environment(),
    )
    assert ask(proxy.port, "/v1/models/org/bert@7/big.bin").status == 307
    answer = ask(proxy.port, WEIGHTS, {"Hotstart-Redirect": "no"})
    assert answer.status == 200


def test_open_signs_urls(redirecting: Proxy, published: Published) -> None:
    """An opening has a URL for every representation, twins among them, as long-lived as asked."""
    answer = ask(redirecting.port, "/v1/open/org/bert@7?expires_in=120")
    opening = Opening.parse(answer.body)
    assert opening.fallback is not None
    assert opening.fallback.expires_in_seconds == 120
    paths = {r.path for file in opening.manifest.files for r in file.representations()}
    assert set(opening.fallback.urls) == paths
    assert "model.safetensors.zst" in paths
    for url in opening.fallback.urls.values():
        query = parse_qs(urlsplit(url).query)
        assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
        assert query["X-Amz-Expires"] == ["120"]
    with urllib.request.urlopen(opening.fallback.urls["config.json"]) as response:
        assert response.read() == (published.folders["7"] / "config.json").read_bytes()
    default = Opening.parse(ask(redirecting.port, "/v1/open/org/bert@7").body).fallback
    assert default is not None
    assert default.expires_in_seconds == 3600
    assert "X-Amz" not in redirecting.process.stderr


def test_an_origin_that_is_away_is_not_missing(
    processes: Processes, s3_server: S3Server, tmp_path: Path
) -> None:
    """With nobody at the endpoint all about models is 502, never 404; liveness does not care."""
    environment = {**s3_server.environment(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}"}
    process = processes.hotstart(
        "serve",
        "--origin",
        "s3://bucket/models",
        "--store",
        f"disk:{tmp_path / 'store'}",
        "--listen",
        f"127.0.0.1:{(port := free_port())}",
        environment=environment,
    )
    process.wait_for_output("serves")
    for target in ("/v1/models/org/bert@7", "/v1/models/org/bert", WEIGHTS, "/v1/open/org/bert"):
        ask(port, target).problem(502, "origin-unreachable")
    assert ask(port, "/healthz/live").status == 200
    ready = ask(port, "/healthz/ready")
    assert (ready.status, ready.json()["status"]) == (503, "unavailable")
    assert ready.json()["degraded"]


def test_degraded_is_ready(
    processes: Processes, published: Published, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the origin gone, what is here is served, and readiness is 200 with a body that says so."""
    with S3Server(tmp_path_factory.mktemp("own-s3")) as server:
        name = server.create_bucket()
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in server.environment().items():
                patch.setenv(variable, value)
            asyncio.run(_publish(f"s3://{name}", dict(os.environ), {"7": published.folders["7"]}))
        proxy = processes.serve(
            f"s3://{name}", tmp_path / "store", "--alias-ttl", "100ms", environment=server.environment()
        )
        data = ask(proxy.port, WEIGHTS).body
        ask(proxy.port, "/v1/models/org/bert@7/config.json")
        server.stop()
        assert ask(proxy.port, WEIGHTS).body == data
        assert ask(proxy.port, "/v1/models/org/bert@prod/config.json").status == 200
        missed = ask(proxy.port, BIG, {"Hotstart-Redirect": "no"})
        # The proxy looks for new versions by itself, and leaves an origin alone that fails again and again.
        assert (missed.status, missed.json()["code"]) in ((502, "origin-unreachable"), (503, "origin-paused"))
        ready = ask(proxy.port, "/healthz/ready")
        assert (ready.status, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["degraded"]
        assert proxy.metric("hotstart_degraded") == 1
        assert proxy.metric("hotstart_ready") == 1


def test_batch_beyond_its_limit_is_redirected(
    processes: Processes, bucket: str, s3_server: S3Server, store: Path
) -> None:
    """A batch reader for whom there is no place goes to S3; one that cannot be sent there is told to wait."""
    proxy = processes.serve(
        f"s3://{bucket}/models", store, "--batch-requests", "1", environment=s3_server.environment()
    )
    batch = {"X-Latency-Tier": "batch"}
    with connected(proxy.port, 16 * 1024) as slow:
        slow.request("GET", BIG, batch)
        slow.head()
        answer = ask(proxy.port, WEIGHTS, batch)
        assert (answer.status, answer.headers["hotstart-tier"]) == (307, "batch")
        refused = ask(proxy.port, WEIGHTS, {**batch, "Hotstart-Redirect": "no"})
        refused.problem(429, "batch-full")
        assert ask(proxy.port, WEIGHTS).status == 200
