"""Tries every client, through a cold proxy and again through a warm one, and prints a table.

``python -m tests.clients.table [ENVIRONMENT ...]``; exit status 1 if a client failed or read other bytes than
were published. The environments are made by ``python -m tests.clients.environments``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.environments import ENVIRONMENTS
from tests.clients.running import CLIENTS, Client, run
from tests.support.models import make_model, minilm_folder
from tests.support.processes import Processes, Proxy

__all__ = ["main"]

# Importing torch on a machine that is busy.
SECONDS = 300.0
ROW = "{:<14} {:<22} {:<10} {:>6} {:>12} {:>7} {:>7}  {}"


@dataclass(frozen=True, slots=True)
class Models:
    """What is published as ``org/small`` and ``org/minilm``, and by which URL."""

    folders: dict[str, Path]
    origin: str


def publish_models(processes: Processes, folder: Path) -> Models:
    """Publish a small model, with shards, folders and names that need escapes, and the real MiniLM."""
    small = make_model(folder / "small", seed=1, mebibytes=24, shards=3)
    (small / "sub/deep").mkdir(parents=True)
    (small / "sub/deep/größe & co.txt").write_text("escaped")
    models = Models({"small": small, "minilm": minilm_folder()}, f"file://{folder / 'origin'}")
    (folder / "origin").mkdir()
    for name, path in models.folders.items():
        reference = f"org/{name}@1"
        processes.run("publish", str(path), reference, "--origin", models.origin, "--alias", "prod").check()
    return models


def expected(processes: Processes, models: Models, client: Client, python: Path, folder: Path) -> object:
    """Return the digests that a client has to report."""
    published = models.folders[client.model]
    if client.script == "transformers":
        direct = run(processes, "transformers", "", str(published), folder, python, seconds=SECONDS)
        return direct["sha256s"]
    if client.script == "hub_api":
        return {}
    paths = [path for path in published.rglob("*") if path.is_file()]
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {path.relative_to(published).as_posix(): digest for path, digest in digests.items()}


def attempt(
    processes: Processes, client: Client, python: Path, proxy: Proxy, folder: Path
) -> tuple[Any, float]:
    """Run a client once; return what it reported and the seconds that it took."""
    before = time.monotonic()
    reference = f"org/{client.model}@{client.selector}"
    found = run(processes, client.script, proxy.url, reference, folder, python, seconds=SECONDS)
    return found, time.monotonic() - before


def rows(
    processes: Processes, models: Models, names: Sequence[str], folder: Path
) -> Iterator[tuple[str, bool]]:
    """Try the clients of some environments; yield a line for each, and whether it was right."""
    environments = {environment.name: environment for environment in ENVIRONMENTS}
    for number, client in enumerate(client for client in CLIENTS if client.environment in names):
        own = folder / str(number)
        python = environments[client.environment].python
        proxy = processes.serve(models.origin, own / "store")
        try:
            cold, cold_seconds = attempt(processes, client, python, proxy, own / "cold")
            warm, warm_seconds = attempt(processes, client, python, proxy, own / "warm")
            wanted = expected(processes, models, client, python, own / "direct")
        except (AssertionError, OSError, ValueError) as error:
            yield f"{client.environment:<14} {client.script:<22} failed: {error}", False
            continue
        finally:
            proxy.process.terminate()
        right = cold["sha256s"] == warm["sha256s"] == wanted
        told = (cold["client"], cold["version"], cold["files"], cold["bytes"])
        times = (f"{cold_seconds:.1f}", f"{warm_seconds:.1f}")
        verdict = "as published" if right else "OTHER BYTES"
        yield ROW.format(client.environment, *told, *times, verdict), right


def main(names: Sequence[str]) -> int:
    """Try the clients of those environments, or of all."""
    chosen = names or [environment.name for environment in ENVIRONMENTS]
    missing = [item.name for item in ENVIRONMENTS if item.name in chosen and not item.is_made]
    if missing:
        print(f"not made: {', '.join(missing)}: python -m tests.clients.environments", file=sys.stderr)
        return 2
    failed = 0
    table, said = sys.stdout, io.StringIO()
    # What the processes printed is worth reading only where something failed.
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(said):
        with Processes(Path(name) / "processes") as processes:
            models = publish_models(processes, Path(name))
            head = ROW.format("environment", "client", "version", "files", "bytes", "cold s", "warm s", "")
            print(head, file=table, flush=True)
            for line, right in rows(processes, models, chosen, Path(name)):
                print(line, file=table, flush=True)
                failed += not right
    if failed:
        print(said.getvalue(), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
