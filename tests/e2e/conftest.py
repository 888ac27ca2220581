"""What the end-to-end tests share: models that are published with the installed command, and loads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.models import fingerprint, make_model
from tests.support.processes import Finished, Process, Processes

REPOSITORY = Path(__file__).resolve().parents[2]
LOADER = Path(__file__).with_name("loader.py")


@dataclass(frozen=True, slots=True)
class Loads:
    """Loads references in processes of their own, as functions do."""

    processes: Processes

    def start(self, reference: str, environment: Mapping[str, str]) -> Process:
        """Begin to load and return at once."""
        return self.processes.start(
            sys.executable,
            str(LOADER),
            reference,
            environment={**environment, "PYTHONPATH": str(REPOSITORY)},
            name="loader",
        )

    def run(self, reference: str, environment: Mapping[str, str]) -> Finished:
        """Load, and return how that ended."""
        return self.start(reference, environment).wait()

    def check(self, finished: Finished, folder: Path, version: str) -> None:
        """Compare a finished load, bit by bit, with the safetensors library's reading of the folder."""
        result = json.loads(finished.check().stdout)
        assert result["version"] == version
        assert result["digest"] == fingerprint(load_file(folder / "model.safetensors"))


@pytest.fixture
def loads(processes: Processes) -> Loads:
    return Loads(processes)


@pytest.fixture
def publish(processes: Processes, tmp_path: Path) -> Callable[..., Path]:
    """Makes a small model of a seed, publishes it with the installed command, and returns its folder."""

    def publish(
        reference: str, origin: str, *arguments: str, environment: Mapping[str, str], seed: int = 0
    ) -> Path:
        folder = tmp_path / f"model-{seed}"
        if not folder.exists():
            make_model(folder, seed)
        processes.run(
            "publish", str(folder), reference, "--origin", origin, *arguments, environment=environment
        ).check()
        return folder

    return publish
