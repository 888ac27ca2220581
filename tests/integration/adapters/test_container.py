"""The container example: its probe is ready only when the model is."""

from __future__ import annotations

import http.client
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.adapters.conftest import Origin
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.models import make_model, small_tensors
from tests.support.processes import Process, Processes, free_port, get
from tests.support.relay import Relay

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "examples" / "container"


def start(processes: Processes, port: int, environment: dict[str, str]) -> Process:
    """Start the server as its image does."""
    settings = {"MODEL": "org/bert@prod", "PORT": str(port), **environment}
    return processes.start(sys.executable, str(EXAMPLE / "server.py"), environment=settings)


def post(port: int, body: str) -> tuple[int, Any]:
    """POST to /embed; return status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("POST", "/embed", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def answers(port: int, path: str, status: int) -> bool:
    """Tell whether the server answers with this status by now."""
    try:
        return get(path, port=port)[0] == status
    except OSError:
        return False


def probes(file: str) -> dict[str, str]:
    """Return the paths of the probes in one of the example's services."""
    service = yaml.safe_load((EXAMPLE / file).read_text())
    (container,) = service["spec"]["template"]["spec"]["containers"]
    return {name: probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}


@pytest.mark.parametrize(
    ("file", "gate"), [("cloud-run.yaml", "startupProbe"), ("knative.yaml", "readinessProbe")]
)
def test_the_probe_is_ready_when_the_model_is(
    origin: Origin, tmp_path: Path, processes: Processes, file: str, gate: str
) -> None:
    """While the model is on its way, the container is live and not ready; then it is, and computes."""
    origin.publish(make_model(tmp_path / "model", seed=3), "org/bert@7")
    proxy = processes.serve(origin.url, tmp_path / "store")
    paths = probes(file)
    port = free_port()
    with Relay(proxy.port) as relay:
        relay.answers.hold_after(1024 * 1024)
        server = start(processes, port, {"HOTSTART_PROXY": relay.url})
        relay.answers.wait_until_held()
        wait_until("the server to listen", lambda: answers(port, paths["livenessProbe"], 200))
        assert get(paths[gate], port=port)[0] == 503
        assert post(port, '{"tokens": [1]}')[0] == 503
        relay.answers.release()
        wait_until("the model", lambda: answers(port, paths[gate], 200))
    status, answer = post(port, '{"tokens": [1, 2]}')
    assert status == 200
    assert answer["version"] == "7"
    expected = small_tensors(seed=3)["embeddings.word_embeddings.weight"][[1, 2]].mean(axis=0)
    assert answer["embedding"] == expected.tolist()
    for wrong in ("", "[]", '{"tokens": [99999999]}', '{"tokens": "x"}'):
        assert post(port, wrong)[0] == 400
    server.send(signal.SIGTERM)
    assert server.wait().status == 0


def test_stopped_while_it_loads_it_ends(origin: Origin, tmp_path: Path, processes: Processes) -> None:
    """SIGTERM in the middle of a load ends the server with status 0."""
    origin.publish(make_model(tmp_path / "model", seed=3), "org/bert@7")
    proxy = processes.serve(origin.url, tmp_path / "store")
    port = free_port()
    with Relay(proxy.port) as relay:
        relay.answers.hold_after(1024 * 1024)
        server = start(processes, port, {"HOTSTART_PROXY": relay.url})
        relay.answers.wait_until_held()
        wait_until("the server to listen", lambda: answers(port, "/live", 200))
        server.send(signal.SIGTERM)
        assert server.wait().status == 0


def test_a_model_that_cannot_be_loaded_ends_the_server(origin: Origin, processes: Processes) -> None:
    """Where no source has the model, the server ends with status 1 and says so, source by source."""
    server = start(processes, free_port(), {"HOTSTART_ORIGIN": origin.url})
    finished = server.wait()
    assert finished.status == 1
    assert "org/bert@prod" in finished.stderr
    assert "Traceback" not in finished.stderr
