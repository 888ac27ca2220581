"""The installed commands, as processes, against real servers."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Loads
from tests.support.models import make_model
from tests.support.processes import Processes
from tests.support.relay import Relay
from tests.support.s3 import S3Server

MEBIBYTE = 1024 * 1024


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of all files below folder, sorted; none if it does not exist."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_an_interrupted_publish_is_invisible_and_resumes(
    processes: Processes, loads: Loads, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """A publish killed in the middle of an upload shows nowhere, and the same command again completes it."""
    folder = make_model(tmp_path / "model")
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    command = ("publish", str(folder), "org/bert@1", "--origin", origin)
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3:
        to_s3.requests.hold_after(2 * MEBIBYTE)
        publisher = processes.hotstart(
            *command, environment={**environment, "AWS_ENDPOINT_URL_S3": to_s3.url}
        )
        to_s3.requests.wait_until_held()
        publisher.kill()
    client = {**environment, "HOTSTART_ORIGIN": origin}
    assert loads.run("org/bert@1", client).status == 1
    assert loads.run("org/bert", client).status == 1
    listed = processes.run("ls", "--origin", origin, "org/bert", environment=environment).check()
    assert "not finished" in listed.stdout
    processes.run(*command, environment=environment).check()
    loads.check(loads.run("org/bert@1", client), folder, "1")


@pytest.mark.parametrize("through", ["proxy", "origin"])
def test_pull_interrupted_leaves_nothing_half_written(
    processes: Processes,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
    through: str,
) -> None:
    """Ctrl-C in the middle of a pull ends it with 130 and leaves no part of a file; again, it completes."""
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    folder = publish("org/bert@1", origin, environment=environment)
    target = tmp_path / "pulled"
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3:
        held = {**environment, "AWS_ENDPOINT_URL_S3": to_s3.url}
        if through == "proxy":
            client = {"HOTSTART_PROXY": processes.serve(origin, tmp_path / "store", environment=held).url}
        else:
            client = {**held, "HOTSTART_ORIGIN": origin}
        to_s3.answers.hold_after(4 * MEBIBYTE)
        pull = processes.hotstart("pull", "org/bert@1", str(target), environment=client)
        to_s3.answers.wait_until_held()
        pull.send(signal.SIGINT)
        finished = pull.wait()
        assert finished.status == 130, finished
        assert "Traceback" not in finished.stderr
        for path in files_below(target):
            assert (target / path).read_bytes() == (folder / path).read_bytes(), path
        assert "model.safetensors" not in files_below(target)
        to_s3.answers.release()
        processes.run("pull", "org/bert@1", str(target), environment=client).check()
    assert files_below(target) == files_below(folder)
    for path in files_below(folder):
        assert (target / path).read_bytes() == (folder / path).read_bytes(), path


def test_versions_beyond_five_are_served_and_not_kept(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """Of six versions the newest five are kept; the oldest is served all the same."""
    origin = f"file://{tmp_path}/origin"
    folders = {
        str(number): publish(f"org/bert@{number}", origin, environment={}, seed=number)
        for number in range(1, 7)
    }
    proxy = processes.serve(origin, tmp_path / "store")
    client = {"HOTSTART_PROXY": proxy.url}
    for version, folder in folders.items():
        loads.check(loads.run(f"org/bert@{version}", client), folder, version)
    loads.check(loads.run("org/bert@latest", client), folders["6"], "6")
    cached = json.loads(proxy.get("/v1/models/org/bert")[1])["cached"]
    size = (folders["6"] / "model.safetensors").stat().st_size
    kept = [version for version, files in cached.items() if files.get("model.safetensors") == size]
    assert sorted(kept) == ["2", "3", "4", "5", "6"]


def test_everything_works_without_a_proxy(
    loads: Loads, publish: Callable[..., Path], s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """HOTSTART_ORIGIN alone, s3 or file, loads the same tensors that were published."""
    for origin, environment in (
        (f"s3://{s3_bucket}/models", s3_server.environment()),
        (f"file://{tmp_path}/origin", {}),
    ):
        folder = publish("org/bert@1", origin, "--alias", "prod", environment=environment)
        finished = loads.run("org/bert", {**environment, "HOTSTART_ORIGIN": origin})
        loads.check(finished, folder, "1")


def test_sigterm_lets_a_running_load_finish(
    processes: Processes,
    loads: Loads,
    publish: Callable[..., Path],
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    """SIGTERM in the middle of a load: the load completes through the same proxy, which then ends with 0."""
    origin = f"s3://{s3_bucket}"
    environment = s3_server.environment()
    folder = publish("org/bert@1", origin, environment=environment)
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as to_s3:
        proxy = processes.serve(
            origin, tmp_path / "store", environment={**environment, "AWS_ENDPOINT_URL_S3": to_s3.url}
        )
        to_s3.answers.hold_after(4 * MEBIBYTE)
        load = loads.start("org/bert@1", {"HOTSTART_PROXY": proxy.url})
        to_s3.answers.wait_until_held()
        proxy.process.send(signal.SIGTERM)
        to_s3.answers.release()
        loads.check(load.wait(), folder, "1")
        assert proxy.process.wait().status == 0
