"""The built wheel in a clean virtual environment. These tests install packages, from PyPI or pip's cache."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY
from tests.support.processes import Process, Processes, clean_environment

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Building, making an environment and installing into it, on a slow machine without a cache.
INSTALL_SECONDS = 300
# Which installed packages, of the standard library's no part, are loaded by the import alone.
FOREIGN = """
import json, sys, hotstart
files = {name.partition(".")[0]: getattr(module, "__file__", 0) or "" for name, module in sys.modules.items()}
print(json.dumps(sorted(name for name, file in files.items() if "site-packages" in file)))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


class CleanEnvironment:
    """A virtual environment with nothing in it but what is installed into it here."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder)
        self.python = folder / "bin" / "python"

    def install(self, requirement: str) -> None:
        """Install with this checkout's pip, so that pip itself stays out."""
        self._pip("install", "--quiet", requirement)

    def packages(self) -> set[str]:
        """Return the names of all distributions in it."""
        listed = self._pip("list", "--format=json")
        return {item["name"] for item in json.loads(listed)}

    def _pip(self, *arguments: str) -> str:
        command = (sys.executable, "-m", "pip", "--python", str(self.python), *arguments)
        done = subprocess.run(command, env=clean_environment(), check=True, capture_output=True, text=True)
        return done.stdout


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_base_install_needs_zstandard_alone(wheel: Path, tmp_path: Path, processes: Processes) -> None:
    """pip install hotstart brings zstandard and nothing else, and import hotstart loads not even that."""
    clean = CleanEnvironment(tmp_path / "venv")
    clean.install(str(wheel))
    assert clean.packages() == {"hotstart", "zstandard"}
    done = processes.start(str(clean.python), "-c", FOREIGN).wait().check()
    assert json.loads(done.stdout) == ["hotstart"]
    command = str(clean.python.parent / "hotstart")
    assert "publish" in processes.start(command, "--help").wait().check().stdout
    missing = processes.start(command, "publish", ".", "org/bert@1", "--origin", "file:///nowhere").wait()
    assert missing.status == 2
    assert "pip install 'hotstart[proxy]'" in missing.stderr


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_readmes_example_runs(
    wheel: Path, tmp_path: Path, processes: Processes, publish: Callable[..., Path]
) -> None:
    """README's ten-line example runs from the wheel as it stands, with a proxy and without one."""
    example = EXAMPLE.search((REPOSITORY / "README.md").read_text())
    assert example is not None
    assert len(example[1].splitlines()) <= 10
    clean = CleanEnvironment(tmp_path / "venv")
    clean.install(f"{wheel}[numpy]")
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@7", origin, "--alias", "prod", environment={})
    proxy = processes.serve(origin, tmp_path / "store")

    def run(environment: dict[str, str]) -> Process:
        # The example downloads into its working directory, which is each process's own folder.
        return processes.start(str(clean.python), "-c", example[1], environment=environment, name="example")

    for environment in ({"HOTSTART_PROXY": proxy.url}, {"HOTSTART_ORIGIN": origin}):
        printed = run(environment).wait().check().stdout
        assert printed.startswith("7 "), printed
        downloaded = tmp_path / "processes" / "bert"
        for path in folder.rglob("*.json"):
            assert (downloaded / path.relative_to(folder)).read_bytes() == path.read_bytes()
