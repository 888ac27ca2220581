"""vLLM's load format, against vLLM's API as recorded in tests/clients/vllm_recorded."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.clients.vllm_api import RECORDED
from tests.integration.adapters.conftest import Origin
from tests.support.models import make_model
from tests.support.processes import Finished, Processes

pytest.importorskip("torch")

SCRIPT = Path(__file__).with_name("vllm_load.py")


class Vllm:
    """Runs what an operator and vLLM run."""

    def __init__(self, processes: Processes, origin: Origin, cache: Path) -> None:
        self._processes = processes
        self._environment = {
            "HOTSTART_ORIGIN": origin.url,
            "XDG_CACHE_HOME": str(cache),
            "PYTHONPATH": str(RECORDED),
        }

    def prepare(self, *arguments: str) -> Finished:
        """Run the command that prints a folder for vLLM."""
        command = (sys.executable, "-m", "hotstart.vllm", *arguments)
        return self._processes.start(*command, environment=self._environment, name="prepare").wait()

    def load(self, model: str, revision: str = "") -> Finished:
        """Load as a worker does."""
        command = (sys.executable, str(SCRIPT), model, revision)
        return self._processes.start(*command, environment=self._environment, name="worker").wait()


@pytest.fixture
def vllm(processes: Processes, origin: Origin, tmp_path: Path) -> Vllm:
    return Vllm(processes, origin, tmp_path / "cache")


def weights(folder: Path) -> dict[str, str]:
    """Return the digests of the tensors that the architecture uses."""
    tensors: dict[str, str] = {}
    for file in folder.glob("*.safetensors"):
        found = load_file(file)
        tensors.update({name: hashlib.sha256(found[name].tobytes()).hexdigest() for name in found})
    return {name: digest for name, digest in tensors.items() if not name.endswith("position_ids")}


def test_all_workers_load_the_version_of_the_prepared_folder(
    origin: Origin, tmp_path: Path, vllm: Vllm
) -> None:
    """The folder has all but weights; whatever the alias means later, workers load the folder's version."""
    first = make_model(tmp_path / "seven", seed=7, shards=2)
    origin.publish(first, "org/llm@7")
    folder = Path(vllm.prepare("org/llm@prod").check().stdout.strip())
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "config.json", "tokenizer.json", "model.safetensors.index.json", ".hotstart-reference",
    }  # fmt: skip
    origin.publish(make_model(tmp_path / "eight", seed=8), "org/llm@8")
    for _ in range(2):
        assert json.loads(vllm.load(str(folder)).check().stdout) == weights(first)


def test_a_name_needs_its_version(origin: Origin, tmp_path: Path, vllm: Vllm) -> None:
    """A model's name is loaded with the version as revision; an alias, which may move, is refused."""
    folder = make_model(tmp_path / "seven", seed=7)
    origin.publish(folder, "org/llm@7")
    assert json.loads(vllm.load("org/llm", "7").check().stdout) == weights(folder)
    for revision, said in (("", "expected a version;"), ("prod", "expected a version (7 at present)")):
        refused = vllm.load("org/llm", revision)
        assert refused.status == 1
        assert said in refused.stderr
        assert "python -m hotstart.vllm org/llm" in refused.stderr
    refused = vllm.load(str(tmp_path))
    assert "hotstart.vllm ORG/MODEL" in refused.stderr


def test_what_cannot_be_prepared_is_said_in_one_sentence(vllm: Vllm) -> None:
    """Wrong arguments end with status 2, a model that is not there with 1 and the reason."""
    for arguments in ((), ("org/a", "org/b"), ("--help",)):
        assert vllm.prepare(*arguments).status == 2
    missing = vllm.prepare("org/none@1")
    assert missing.status == 1
    assert missing.stderr.startswith("hotstart.vllm: ")
    assert "Traceback" not in missing.stderr
