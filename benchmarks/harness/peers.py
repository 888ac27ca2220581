"""The systems that ours is measured against: in an environment of their own, since their pins differ."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .folders import REPOSITORY

__all__ = ["ABSENT", "PEERS", "Peer", "peer", "peer_versions", "python"]

PEERS_VENV = REPOSITORY / ".venv-peers"
# What the Makefile installs there, by distribution.
PEERS = (
    "boto3",
    "huggingface_hub",
    "numpy",
    "runai-model-streamer",
    "safetensors",
    "tensorizer",
    "torch",
)
ABSENT = "the peers are not installed (make peers)"

_LOOK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One package of the peers' environment.

    Attributes:
        version: None where it is absent.
        reason: why it is absent; empty where it is there.
    """

    name: str
    version: str | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.version is not None


def python() -> Path | None:
    """Return the interpreter of the peers' environment, or None where it was not made."""
    path = PEERS_VENV / "bin" / "python"
    return path if path.exists() else None


@cache
def peer_versions() -> dict[str, str]:
    """Return the versions of the peers that are installed; empty where there is no environment."""
    path = python()
    if path is None:
        return {}
    done = subprocess.run([str(path), "-c", _LOOK, *PEERS], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def peer(name: str) -> Peer:
    """Return one of ``PEERS``, or the reason why it is not there."""
    if python() is None:
        return Peer(name, None, ABSENT)
    version = peer_versions().get(name)
    return Peer(name, version, "" if version else f"{name} is not in the peers' environment (make peers)")
