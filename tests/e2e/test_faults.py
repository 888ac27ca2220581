"""Whatever is killed, a load ends with the right bytes or with one error that says why."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.conftest import Loads
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.models import fingerprint, make_model, minilm_folder
from tests.support.processes import Processes
from tests.support.relay import Relay
from tests.support.s3 import S3Server

MODEL = "sentence-transformers/all-minilm-l6-v2"
MEBIBYTE = 1024 * 1024


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    """A server of this test's own, to stop and to kill."""
    with S3Server(tmp_path / "s3") as server:
        server.create_bucket("models")
        yield server


def test_a_load_survives_the_proxys_death(
    processes: Processes, loads: Loads, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """A proxy killed with SIGKILL in the middle of a load: the load completes from S3, bit-identical."""
    folder = minilm_folder()
    origin = f"s3://{s3_bucket}/models"
    environment = s3_server.environment()
    processes.run("publish", str(folder), f"{MODEL}@1", "--origin", origin, environment=environment).check()
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3:
        proxy = processes.serve(
            origin, tmp_path / "store", environment={**environment, "AWS_ENDPOINT_URL_S3": to_s3.url}
        )
        with Relay(proxy.port) as to_proxy:
            # Of 91 MB so many pass that pieces are complete, and so few that the load cannot be.
            to_s3.answers.hold_after(60 * MEBIBYTE)
            load = loads.start(f"{MODEL}@1", {"HOTSTART_PROXY": to_proxy.url})
            to_s3.answers.wait_until_held()
            wait_until("weights to reach the client", lambda: to_proxy.answers.passed > 8 * MEBIBYTE)
            proxy.process.kill()
            to_s3.answers.release()
            before = to_s3.answers.passed
            loads.check(load.wait(), folder, "1")
            # What had arrived is not fetched again.
            assert to_s3.answers.passed - before < 91_000_000 - 4 * MEBIBYTE


def test_warm_versions_outlive_the_origin(
    processes: Processes, loads: Loads, publish: Callable[..., Path], s3: S3Server, tmp_path: Path
) -> None:
    """With S3 stopped, warm versions are still served, by version and by alias, also after a restart."""
    origin = "s3://models/team"
    environment = s3.environment()
    folder = publish("org/bert@1", origin, "--alias", "prod", environment=environment)
    proxy = processes.serve(origin, tmp_path / "store", environment=environment)
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert@prod", client), folder, "1")
    s3.kill()
    loads.check(loads.run("org/bert@1", client), folder, "1")
    proxy.process.terminate()
    processes.restart(proxy)
    loads.check(loads.run("org/bert@prod", client), folder, "1")


def test_one_error_lists_every_source(
    processes: Processes, loads: Loads, publish: Callable[..., Path], s3: S3Server, tmp_path: Path
) -> None:
    """With proxy and S3 gone, one error lists each source that was tried and why it failed."""
    origin = "s3://models/team"
    environment = s3.environment()
    publish("org/bert@1", origin, environment=environment)
    fallback = tmp_path / "fallback.json"
    processes.run(
        "presign", "org/bert@1", "--origin", origin, "--output", str(fallback), environment=environment
    ).check()
    proxy = processes.serve(origin, tmp_path / "store", environment=environment)
    proxy.process.kill()
    s3.kill()
    finished = loads.run(
        "org/bert@1",
        {
            **environment,
            "HOTSTART_PROXY": proxy.url,
            "HOTSTART_FALLBACK": str(fallback),
            "HOTSTART_ORIGIN": origin,
        },
    )
    assert finished.status == 1
    assert "AllSourcesFailed" in finished.stderr
    assert "Traceback" not in finished.stderr
    for source in (proxy.url, str(fallback), origin):
        assert source in finished.stderr
    # Signatures stay out of what people paste into tickets.
    assert "X-Amz-Signature" not in finished.stderr


def test_a_published_object_replaced_mid_fill(
    processes: Processes,
    loads: Loads,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    """A published file that somebody overwrites while it is filled never yields mixed bytes, but an error."""
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    folder = publish("org/bert@1", origin, environment=environment)
    key = "org/bert/1/model.safetensors"
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3:
        proxy = processes.serve(
            origin, tmp_path / "store", environment={**environment, "AWS_ENDPOINT_URL_S3": to_s3.url}
        )
        to_s3.answers.hold_after(2 * MEBIBYTE)
        load = loads.start("org/bert@1", {"HOTSTART_PROXY": proxy.url})
        to_s3.answers.wait_until_held()
        size = (folder / "model.safetensors").stat().st_size
        s3_server.put(s3_bucket, key, b"\xff" * size)
        to_s3.cut()
        to_s3.answers.release()
        finished = load.wait()
        assert finished.status == 1, finished.stdout
        assert "no longer the one in the manifest" in finished.stderr
        # Nor does anything of it stay for the next reader.
        assert loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}).status == 1


def test_an_adopted_file_replaced(processes: Processes, loads: Loads, tmp_path: Path) -> None:
    """A plainly uploaded file that is replaced gives old bytes or new, never both, and the new at last."""
    folders = [make_model(tmp_path / f"model-{seed}", seed) for seed in (0, 1)]
    target = tmp_path / "origin" / "org" / "bert" / "1"

    def upload(folder: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "model.safetensors", tmp_path / "upload")
        # Older than the 60 seconds for which an upload may still be going on.
        moment = time.time() - 600 + 60 * folders.index(folder)
        os.utime(tmp_path / "upload", (moment, moment))
        (tmp_path / "upload").replace(target / "model.safetensors")

    upload(folders[0])
    proxy = processes.serve(f"file://{tmp_path}/origin", tmp_path / "store", "--alias-ttl", "0.2s")
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert@1", client), folders[0], "1")
    upload(folders[1])
    # What was looked up and copied stays good for a while; another process looks again.
    proxy.process.terminate()
    processes.restart(proxy)
    old, new = (fingerprint(load_file(folder / "model.safetensors")) for folder in folders)

    def new_bytes() -> bool:
        found = json.loads(loads.run("org/bert@1", client).check().stdout)["digest"]
        assert found in (old, new)
        return bool(found == new)

    wait_until("the new bytes", new_bytes)


def test_a_workers_death_in_the_middle_of_a_fill(
    processes: Processes,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    """A worker killed while it fills costs its own readers; those of others get all bytes, fetched once."""
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    make_model(tmp_path / "model-0", mebibytes=32)
    file = publish("org/bert@1", origin, environment=environment) / "model.safetensors"
    size = file.stat().st_size
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3, ExitStack() as connections:
        proxy = processes.serve(
            origin,
            tmp_path / "store",
            *("--workers", "2", "--alias-ttl", "1h"),
            environment={**environment, "AWS_ENDPOINT_URL_S3": to_s3.url},
        )
        printed = proxy.process.wait_for_output("with 2 workers")
        pids = {number: int(pid) for number, pid in re.findall(r"worker=(\d) pid=(\d+)", printed)}
        of_worker: dict[str, http.client.HTTPConnection] = {}
        for attempt in itertools.count():
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE_SECONDS)
            connections.callback(connection.close)
            # No such path: refused and logged, which says whose connection this is.
            name = f"/whose-{attempt}"
            connection.request("GET", name)
            connection.getresponse().read()
            (number,) = re.findall(rf"worker=(\d) .*path={name} ", proxy.process.wait_for_output(name))
            of_worker.setdefault(number, connection)
            if len(of_worker) == 2:
                break
        for connection in of_worker.values():
            # Looked up before S3 falls silent.
            connection.request("GET", "/v1/models/org/bert@1")
            connection.getresponse().read()
        to_s3.answers.hold_after(12 * MEBIBYTE)
        for connection in of_worker.values():
            connection.request("GET", "/v1/models/org/bert@1/model.safetensors")
        to_s3.answers.wait_until_held()
        answers = {number: connection.getresponse() for number, connection in of_worker.items()}
        assert [answer.status for answer in answers.values()] == [200, 200]
        os.kill(pids["1"], signal.SIGKILL)
        to_s3.answers.release()
        assert answers["2"].read() == file.read_bytes()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answers["1"].read()
        # What the dead worker had claimed and not written is fetched again, once, and nothing else. Counted
        # where it arrives: what was on its way to the dead one passed the relay as well.
        assert 0 < proxy.metric("hotstart_origin_bytes_total") <= size
