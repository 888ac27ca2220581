"""The installed proxy over an S3 that fails: loads come through bit by bit, or end soon with one error."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Loads
from tests.support import fault_s3
from tests.support.deadlines import DEADLINE_SECONDS, TIME_SCALE, wait_until
from tests.support.fault_s3 import Fault, FaultS3
from tests.support.processes import Processes, Proxy

MIB = 1024 * 1024
FILE = "/v1/models/org/bert@1/model.safetensors"
KEY = "org/bert/1/model.safetensors"


@pytest.fixture
def folder(publish: Callable[..., Path], tmp_path: Path) -> Path:
    """A published model; what is published lies in ``published``."""
    (tmp_path / "published").mkdir()
    return publish("org/bert@1", f"file://{tmp_path}/published", environment={})


@pytest.fixture
def s3(folder: Path, tmp_path: Path) -> Iterator[FaultS3]:
    with FaultS3(tmp_path / "published") as s3:
        yield s3


@pytest.fixture
def proxy(s3: FaultS3, processes: Processes, tmp_path: Path) -> Proxy:
    """Waits for S3 as long as a busy machine may need."""
    timeout = ("--origin-timeout", f"{TIME_SCALE}s")
    return processes.serve(s3.origin, tmp_path / "store", *timeout, environment=s3.environment())


@pytest.fixture
def hasty(s3: FaultS3, processes: Processes, tmp_path: Path) -> Proxy:
    """Waits less long, where S3 never answers well anyhow."""
    timeout = ("--origin-timeout", f"{TIME_SCALE / 4}s")
    return processes.serve(s3.origin, tmp_path / "store", *timeout, environment=s3.environment())


def ask(proxy: Proxy) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask for the model as a client that follows no redirect; an answer that breaks off is status 0."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE_SECONDS)
    try:
        connection.request(
            "GET", "/v1/models/org/bert@1/model.safetensors", headers={"Hotstart-Redirect": "no"}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (http.client.HTTPException, OSError):
        return 0, http.client.HTTPMessage(), b""
    finally:
        connection.close()


PASSING = {
    "throttled": (fault_s3.throttle(4 * MIB), None),
    "cut": (fault_s3.cut(after=MIB), None),
    "SlowDown": (fault_s3.slow_down(), 3),
    "hangs": (fault_s3.hang(after=MIB), 1),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_load_comes_through(s3: FaultS3, proxy: Proxy, loads: Loads, folder: Path, name: str) -> None:
    """Whatever S3 does to the proxy's requests, the load is bit-identical, and S3 has sent it once."""
    fault, times = PASSING[name]
    s3.fail(fault, key=KEY, times=times)
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    wait_until("the blob", lambda: proxy.metric("hotstart_store_blobs") >= 1)
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    size = (folder / "model.safetensors").stat().st_size
    # What had arrived but was not read yet when a connection broke is sent again.
    assert size <= s3.sent(KEY) < 1.2 * size


LASTING = {
    "hangs": fault_s3.hang(),
    "hangs in the body": fault_s3.hang(after=1000),
    "trickles": fault_s3.throttle(100),
    "500": fault_s3.server_error(),
    "another object": fault_s3.other_etag(),
    "damaged": Fault(flips=100),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_load_that_cannot_be_ends(s3: FaultS3, hasty: Proxy, loads: Loads, name: str) -> None:
    """Where S3 fails the proxy and refuses its clients, a load ends in time, with one error and no tensor."""
    s3.fail(LASTING[name], key=KEY, presigned=False)
    s3.fail(fault_s3.denied("AccessDenied"), key=KEY, presigned=True)
    finished = loads.run("org/bert@1", {"HOTSTART_PROXY": hasty.url})
    assert finished.status == 1, finished.stdout
    assert "Traceback" not in finished.stderr
    assert hasty.url in finished.stderr
    assert not finished.stdout
    assert hasty.metric("hotstart_store_blobs") == 0


def test_the_circuit(s3: FaultS3, proxy: Proxy, loads: Loads, folder: Path) -> None:
    """A failing S3 is left alone, loads go to it by redirect, and when it works again it is filled from."""
    client = {"HOTSTART_PROXY": proxy.url}
    assert proxy.get("/v1/open/org/bert@1")[0] == 200
    # To the proxy alone, as where its route to S3 is cut and its clients' is not.
    s3.fail(fault_s3.server_error(), presigned=False)
    refusals: list[tuple[http.client.HTTPMessage, bytes]] = []

    def refused() -> bool:
        status, headers, body = ask(proxy)
        if status == 503:
            refusals.append((headers, body))
        return status == 503

    wait_until("the circuit to open", refused)
    ((headers, body),) = refusals
    assert int(headers["Retry-After"]) >= 1
    assert b'"origin-paused"' in body
    loads.check(loads.run("org/bert@1", client), folder, "1")
    assert proxy.metric("hotstart_redirects_total") >= 1
    assert proxy.metric("hotstart_origin_circuit_open") == 1
    assert any(seen.presigned and seen.sent_bytes for seen in s3.requests(KEY))
    assert b"degraded" in proxy.get("/healthz/ready")[1]
    s3.mend()
    wait_until("the circuit to close", lambda: ask(proxy)[0] == 200)
    assert proxy.metric("hotstart_origin_circuit_open") == 0
    before = s3.sent(KEY)
    wait_until("the blob", lambda: proxy.metric("hotstart_store_blobs") == 1)
    loads.check(loads.run("org/bert@1", client), folder, "1")
    assert s3.sent(KEY) == before
    # Each of what happened is said once, with its cause.
    log = proxy.process.stderr
    assert log.count("the origin is left alone for a while") == log.count("the origin answers again") == 1
    assert "500 InternalError" in log


def test_credentials_that_rotate(
    s3: FaultS3, processes: Processes, loads: Loads, folder: Path, tmp_path: Path
) -> None:
    """A proxy whose keys are replaced in their file, and refused afterwards, goes on without a restart."""
    file = tmp_path / "credentials"

    def write(access_key: str) -> None:
        file.with_suffix(".new").write_text(
            f"[default]\naws_access_key_id={access_key}\naws_secret_access_key=s\naws_session_token=t\n"
        )
        file.with_suffix(".new").replace(file)

    write("OLD")
    environment = s3.environment() | {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    proxy = processes.serve(s3.origin, tmp_path / "store", environment=environment)
    assert proxy.get("/v1/open/org/bert@1")[0] == 200
    write("NEW")
    s3.refused_keys["OLD"] = "ExpiredToken"
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    assert {seen.access_key for seen in s3.requests(KEY) if seen.sent_bytes} == {"NEW"}
    assert "credentials reloaded" in proxy.process.stderr
    assert "ExpiredToken" in proxy.process.stderr
