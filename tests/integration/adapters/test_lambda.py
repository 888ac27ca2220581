"""The Lambda example, run by AWS's own runtime client against a Runtime API on this host."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy

from tests.integration.adapters.conftest import Origin
from tests.support.lambda_runtime import LambdaRuntime
from tests.support.models import make_model, small_tensors
from tests.support.processes import Process, Processes
from tests.support.relay import Relay

FUNCTION = Path(__file__).resolve().parents[3] / "deploy" / "examples" / "lambda"


def start(processes: Processes, runtime: LambdaRuntime, environment: dict[str, str]) -> Process:
    """Start the function as Lambda's images do."""
    function = {
        "AWS_LAMBDA_RUNTIME_API": runtime.address,
        "MODEL": "org/bert@prod",
        "PYTHONPATH": str(FUNCTION),
        "PYTHONWARNINGS": "default",
        **environment,
    }
    return processes.start(sys.executable, "-m", "awslambdaric", "handler.handle", environment=function)


def test_the_model_is_loaded_in_the_init_phase(origin: Origin, tmp_path: Path, processes: Processes) -> None:
    """No event is asked for before the model is there, and events fetch nothing."""
    origin.publish(make_model(tmp_path / "model", seed=3), "org/bert@7")
    proxy = processes.serve(origin.url, tmp_path / "store")
    with LambdaRuntime() as runtime, Relay(proxy.port) as relay:
        relay.answers.hold_after(1024 * 1024)
        start(processes, runtime, {"HOTSTART_PROXY": relay.url})
        relay.answers.wait_until_held()
        assert not runtime.is_asked
        relay.answers.release()
        runtime.wait_until_asked()
        passed = relay.answers.passed
        embeddings = small_tensors(seed=3)["embeddings.word_embeddings.weight"]
        for tokens in ([1, 2, 3], [5]):
            answer = runtime.invoke({"tokens": tokens})
            assert answer["version"] == "7"
            numpy.testing.assert_array_equal(
                numpy.array(answer["embedding"], dtype=numpy.float32), embeddings[tokens].mean(axis=0)
            )
        assert relay.answers.passed == passed


def test_a_model_that_cannot_be_loaded_fails_the_init_phase(origin: Origin, processes: Processes) -> None:
    """Lambda is told why, source by source, and the process ends, so that it is started again."""
    with LambdaRuntime() as runtime:
        function = start(processes, runtime, {"HOTSTART_ORIGIN": origin.url})
        error = runtime.init_error()
        assert error["errorType"] == "AllSourcesFailed"
        assert "org/bert@prod" in error["errorMessage"]
        assert function.wait().status == 1
        assert not runtime.is_asked
