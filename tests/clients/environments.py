"""Environments of clients whose pins differ from ours and from each other's.

``python -m tests.clients.environments [NAME ...]`` makes them.

Each is a virtual environment below ``.venv-clients``, made from the package index and made again when what it
is to hold has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENTS", "FOLDER", "Environment", "make"]

FOLDER = Path(__file__).resolve().parents[2] / ".venv-clients"


@dataclass(frozen=True, slots=True)
class Environment:
    """What one virtual environment holds.

    Attributes:
        name: of its folder.
        requirements: as pip takes them.
    """

    name: str
    requirements: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter, once it is made."""
        return FOLDER / self.name / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Says of what it was made."""
        return FOLDER / self.name / "made-of.json"

    @property
    def is_made(self) -> bool:
        """It is there, and of these requirements."""
        return self.stamp.exists() and json.loads(self.stamp.read_text()) == list(self.requirements)


# Of huggingface_hub the last release on requests, the last on httpx, and one on httpx2.
ENVIRONMENTS: tuple[Environment, ...] = (
    Environment("hub-0.36", ("huggingface_hub==0.36.2", "numpy", "safetensors>=0.8")),
    Environment("hub-1.33", ("huggingface_hub==1.33.0", "numpy", "safetensors>=0.8")),
    Environment("hub-2.4", ("huggingface_hub==2.4.0", "numpy", "safetensors>=0.8")),
    Environment("boto3", ("boto3", "aiobotocore")),
    Environment("awscli", ("awscli",)),
    Environment("s3fs", ("s3fs",)),
    Environment("runai", ("numpy", "runai-model-streamer[s3]", "torch==2.13.0")),
    Environment("transformers", ("numpy", "torch==2.13.0", "transformers==5.24.0")),
)


def make(environment: Environment) -> None:
    """Make an environment unless it is there.

    Raises:
        subprocess.CalledProcessError: pip could not install what it is to hold.
    """
    if environment.is_made:
        return
    print(f"Setting up {environment.name}: {' '.join(environment.requirements)} ...", flush=True)
    venv.create(FOLDER / environment.name, clear=True, with_pip=True)
    pip = (str(environment.python), "-m", "pip", "--disable-pip-version-check", "-qq", "install")
    subprocess.run([*pip, *environment.requirements], check=True)
    environment.stamp.write_text(json.dumps(environment.requirements))


def main(names: Sequence[str]) -> int:
    """Make those environments, or all of them."""
    unknown = set(names) - {environment.name for environment in ENVIRONMENTS}
    if unknown:
        known = ", ".join(environment.name for environment in ENVIRONMENTS)
        print(f"there is no environment {', '.join(sorted(unknown))}; there is {known}", file=sys.stderr)
        return 2
    for environment in ENVIRONMENTS:
        if not names or environment.name in names:
            try:
                make(environment)
            except subprocess.CalledProcessError as error:
                print(f"{environment.name}: pip ended with {error.returncode}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
