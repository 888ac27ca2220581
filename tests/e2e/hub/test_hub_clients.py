"""The newest huggingface_hub, unchanged, against a proxy; make test-clients tries the others."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.running import HUB_SCRIPTS, run, start
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy
from tests.support.relay import Relay

SNAPSHOTS = Path(__file__).with_name("snapshots.py")
FLIPS = 4
FILES = ("config.json", "tokenizer.json", "weights/a.bin", "weights/b.bin", "weights/c.bin")


def publish(processes: Processes, folder: Path, reference: str, origin: Path, *arguments: str) -> None:
    """Publish with the installed command."""
    processes.run("publish", str(folder), reference, "--origin", f"file://{origin}", *arguments).check()


def sha256s(folder: Path) -> dict[str, str]:
    """The digests of all files of a folder, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a subfolder, an empty file, and a name that needs escapes; published beside itself."""
    base = tmp_path_factory.mktemp("hub")
    folder = make_model(base / "model", seed=1, mebibytes=6, shards=2)
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "sub/deep/größe & co.txt").write_text("escaped")
    (folder / "empty.txt").write_bytes(b"")
    (base / "origin").mkdir()
    with Processes(base / "publishing") as processes:
        publish(processes, folder, "org/bert@7", base / "origin", "--alias", "prod")
    return folder


@pytest.fixture(scope="module")
def proxy(model: Path) -> Iterator[Proxy]:
    with Processes(model.parent / "processes") as processes:
        yield processes.serve(f"file://{model.parent / 'origin'}", model.parent / "store")


@pytest.mark.parametrize("script", HUB_SCRIPTS)
def test_the_hubs_client(
    script: str, processes: Processes, model: Path, proxy: Proxy, tmp_path: Path
) -> None:
    """With one variable set every way of reading gives the very bytes that were published."""
    found = run(processes, script, proxy.url, "org/bert@prod", tmp_path)
    published = sha256s(model)
    if script == "hub_api":
        assert found["sizes"] == {path: (model / path).stat().st_size for path in published}
    else:
        assert found["sha256s"] == published


def test_a_snapshot_through_a_miss_and_again(processes: Processes, model: Path, tmp_path: Path) -> None:
    """A cold proxy gives a snapshot as a warm one does, without asking the origin for a byte twice."""
    proxy = processes.serve(f"file://{model.parent / 'origin'}", tmp_path / "store")
    cold = run(processes, "hub_snapshot", proxy.url, "org/bert", tmp_path / "cold")
    fetched = proxy.metric("hotstart_origin_bytes_total")
    warm = run(processes, "hub_snapshot", proxy.url, "org/bert@7", tmp_path / "warm")
    assert cold["sha256s"] == warm["sha256s"] == sha256s(model)
    assert cold["commit"] == warm["commit"]
    assert proxy.metric("hotstart_origin_bytes_total") == fetched


def test_snapshots_under_an_alias_that_moves(processes: Processes, tmp_path: Path) -> None:
    """While an alias goes to and fro no snapshot is of two versions, with two proxies at one address."""
    origin = tmp_path / "origin"
    origin.mkdir()
    for version in ("1", "2"):
        for file in FILES:
            path = tmp_path / version / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{file} of version {version}\n" * 5000)
        publish(processes, tmp_path / version, f"org/bert@{version}", origin, "--alias", "prod")
    proxies = [
        processes.serve(f"file://{origin}", tmp_path / f"store-{number}", "--alias-ttl", "50ms")
        for number in range(2)
    ]
    stop = tmp_path / "stop"
    with Relay(*(proxy.port for proxy in proxies)) as both:
        readers = [
            start(
                processes, SNAPSHOTS, both.url, "org/bert", revision, str(tmp_path / f"{number}"), str(stop)
            )
            for number, revision in enumerate(("prod", "main"))
        ]
        try:
            for flip in range(FLIPS):
                version = "1" if flip % 2 == 0 else "2"
                processes.run("alias", "org/bert", f"prod={version}", "--origin", f"file://{origin}").check()
        finally:
            stop.touch()
        seen = sum((Counter(json.loads(reader.wait().check().stdout)) for reader in readers), Counter[str]())
    assert set(seen) == {f"{version} of {len(FILES)} files" for version in ("1", "2")}
