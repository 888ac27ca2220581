"""Runs the scripts of clients as their users do, in processes of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import Process, Processes

__all__ = ["CLIENTS", "Client", "run", "start"]

SCRIPTS = Path(__file__).parent
REPOSITORY = SCRIPTS.parents[1]


@dataclass(frozen=True, slots=True)
class Client:
    """One client to try.

    Attributes:
        script: its name, without ``client_`` and ``.py``.
        environment: name of the one that it runs in.
        model: what it loads: ``small`` or the real ``minilm``.
        selector: of the version; an alias where the protocol has such.
    """

    script: str
    environment: str
    model: str = "small"
    selector: str = "prod"


HUB_SCRIPTS = ("hub_download", "hub_snapshot", "hub_filesystem", "hub_api")
CLIENTS: tuple[Client, ...] = (
    *(
        Client(script, environment)
        for environment in ("hub-0.36", "hub-1.33", "hub-2.4")
        for script in HUB_SCRIPTS
    ),
    Client("transformers", "transformers", "minilm"),
    Client("boto3", "boto3", selector="1"),
    Client("aiobotocore", "boto3", selector="1"),
    Client("awscli", "awscli", selector="1"),
    Client("s3fs", "s3fs", selector="1"),
    Client("runai", "runai", selector="1"),
)


def start(
    processes: Processes,
    script: Path,
    *arguments: str,
    python: Path | str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a script that may import this package, by an interpreter that need have nothing of ours."""
    # What other people's code warns of is theirs.
    own = {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "default", **(environment or {})}
    return processes.start(str(python), str(script), *arguments, environment=own, name=script.stem)


def run(
    processes: Processes,
    script: str,
    url: str,
    reference: str,
    folder: Path,
    python: Path | str = sys.executable,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Any:
    """Run one client to its end and return what it reported.

    Args:
        processes: to start it by.
        script: as in ``Client``.
        url: of the proxy.
        reference: what to load.
        folder: for what the client keeps.
        python: interpreter of its environment.
        environment: variables besides.
        seconds: how long it may take; None for a test's usual patience.
    """
    path = SCRIPTS / f"client_{script}.py"
    process = start(processes, path, url, reference, str(folder), python=python, environment=environment)
    finished = process.wait() if seconds is None else process.wait(seconds)
    return json.loads(finished.check().stdout.splitlines()[-1])
