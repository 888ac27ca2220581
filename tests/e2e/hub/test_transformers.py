"""transformers, unchanged, against a proxy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.running import run, start
from tests.support.models import minilm_folder
from tests.support.processes import Processes
from tests.support.relay import Relay

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
PRETRAINED = Path(__file__).with_name("pretrained.py")
FLIPS = 4


def test_the_same_embedding(processes: Processes, tmp_path: Path) -> None:
    """Through the proxy the real MiniLM gives the embedding that it gives from its own files, bit by bit."""
    origin = f"file://{tmp_path / 'origin'}"
    (tmp_path / "origin").mkdir()
    processes.run(
        "publish", str(minilm_folder()), "org/minilm@1", "--origin", origin, "--suffix", "zst"
    ).check()
    proxy = processes.serve(origin, tmp_path / "store")
    through = run(processes, "transformers", proxy.url, "org/minilm", tmp_path / "home")
    direct = run(processes, "transformers", "", str(minilm_folder()), tmp_path / "other")
    assert through == direct


def test_models_under_an_alias_that_moves(processes: Processes, tmp_path: Path) -> None:
    """While an alias goes to and fro no from_pretrained mixes versions, with two proxies at one address."""
    origin = f"file://{tmp_path / 'origin'}"
    (tmp_path / "origin").mkdir()
    for number in ("1", "2"):
        folder = tmp_path / f"model-{number}"
        start(processes, PRETRAINED, "make", str(folder), number).wait().check()
        processes.run("publish", str(folder), f"org/bert@{number}", "--origin", origin).check()
        processes.run("alias", "org/bert", f"prod={number}", "--origin", origin).check()
    proxies = [
        processes.serve(origin, tmp_path / f"store-{number}", "--alias-ttl", "50ms") for number in range(2)
    ]
    stop = tmp_path / "stop"
    with Relay(*(proxy.port for proxy in proxies)) as both:
        reader = start(
            processes, PRETRAINED, "load", both.url, "org/bert", "prod", str(tmp_path / "home"), str(stop)
        )
        try:
            # It imports for seconds before it reads; so the alias moves as long as it has not seen both.
            flip = 0
            while flip < FLIPS or both.gets < 40:
                assert reader.running, reader.stderr
                flip += 1
                processes.run("alias", "org/bert", f"prod={1 + flip % 2}", "--origin", origin).check()
        finally:
            stop.touch()
        seen = json.loads(reader.wait().check().stdout.splitlines()[-1])
    assert set(seen) <= {"1", "2"}
    assert sum(seen.values()) > 0
