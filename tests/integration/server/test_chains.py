"""Proxies whose origin is another proxy: what they pass on, and what a loop or a lost upstream comes to."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy, free_port
from tests.support.s3 import S3Server

BIG = "/v1/models/org/bert@7/big.bin"
WEIGHTS = "/v1/models/org/bert@7/model.safetensors"
SHORT_TTL = ("--alias-ttl", "50ms")


def data_of(published: Published, name: str, version: str = "7") -> bytes:
    return (published.folders[version] / name).read_bytes()


def cached_bytes(proxy: Proxy) -> float:
    return proxy.metric("hotstart_store_used_bytes")


def test_a_cold_chain_costs_one_copy(processes: Processes, published: Published, tmp_path: Path) -> None:
    """Cold sidecars on a cold node stream the file whole, and the node takes one copy from the origin."""
    node = processes.serve(published.url, tmp_path / "node")
    first = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "first")
    second = processes.serve(f"unix:{node.unix}", tmp_path / "second")
    for sidecar in (first, second):
        answer = ask(sidecar.port, BIG)
        assert answer.body == data_of(published, "big.bin")
        assert answer.headers["cache-status"] == "hotstart; fwd=miss; stored"
        assert sidecar.metric("hotstart_origin_bytes_total") == BIG_BYTES
    assert node.metric("hotstart_origin_bytes_total") == BIG_BYTES
    assert ask(first.port, BIG).headers["cache-status"] == "hotstart; hit"


def test_documents_are_the_same_at_every_link(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """Manifest, versions and aliases are told at the end of a chain of three as at its beginning."""
    link = processes.serve(published.url, tmp_path / "0")
    for number in (1, 2):
        link = processes.serve(f"http://127.0.0.1:{link.port}", tmp_path / str(number))
    assert ask(link.port, "/v1/models/org/bert@prod").body == published.manifest("7")
    assert ask(link.port, "/v1/models").json() == {"models": ["org/bert"]}
    model = ask(link.port, "/v1/models/org/bert").json()
    assert [item["version"] for item in model["versions"]] == ["6", "7"]
    assert model["aliases"] == {"prod": "7"}
    ask(link.port, "/v1/models/org/gpt").problem(404, "not-found")
    ask(link.port, "/v1/models/org/bert@9").problem(404, "not-found")
    ask(link.port, "/v1/models/org/bert@7/none").problem(404, "not-found")


def test_ranges_and_names_with_escapes(processes: Processes, published: Published, tmp_path: Path) -> None:
    """Empty files, names that need escapes, and ranges far ahead come through a chain."""
    node = processes.serve(published.url, tmp_path / "node")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar")
    assert ask(sidecar.port, "/v1/models/org/bert@7/empty.txt").body == b""
    assert ask(sidecar.port, "/v1/models/org/bert@7/gr%C3%B6%C3%9Fe%20&%20co.txt").body == b"escaped"
    far = ask(sidecar.port, BIG, {"Range": f"bytes={BIG_BYTES - 1000}-"})
    assert far.body == data_of(published, "big.bin")[-1000:]
    assert node.metric("hotstart_origin_bytes_total") < BIG_BYTES / 2


def test_an_alias_that_moves_is_seen_at_the_end_of_a_chain(
    processes: Processes, own_origin: Published, published: Published, tmp_path: Path
) -> None:
    """A new version and a moved alias reach a sidecar within its own time to live, whatever the node's is."""
    node = processes.serve(own_origin.url, tmp_path / "node", "--alias-ttl", "1h")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar", *SHORT_TTL)
    assert ask(sidecar.port, "/v1/models/org/bert@prod").headers["content-location"].endswith("@7")
    publish = ("publish", str(published.folders["6"]), "org/bert@8", "--alias", "prod")
    processes.run(*publish, "--origin", own_origin.url).check()

    def moved() -> bool:
        location = ask(sidecar.port, "/v1/models/org/bert@prod").headers["content-location"]
        return location.endswith("@8")

    wait_until("the sidecar to see that the alias has moved", moved)


def test_an_upstream_that_goes_and_comes_back(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """While the node is down a sidecar serves what it has and says that it is degraded; then all works."""
    node = processes.serve(published.url, tmp_path / "node")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar", *SHORT_TTL)
    assert ask(sidecar.port, WEIGHTS).status == 200
    node.process.kill()
    assert ask(sidecar.port, "/v1/models/org/bert@prod").status == 200
    assert ask(sidecar.port, WEIGHTS).body == data_of(published, "model.safetensors")
    missed = ask(sidecar.port, BIG)
    # A sidecar looks for new versions by itself, and leaves an upstream alone that fails again and again.
    assert (missed.status, missed.json()["code"]) in ((502, "origin-unreachable"), (503, "origin-paused"))
    ready = ask(sidecar.port, "/healthz/ready")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert f"http://127.0.0.1:{node.port}" in ready.json()["degraded"][0]
    processes.restart(node)
    wait_until("the sidecar to ask the node again", lambda: ask(sidecar.port, BIG).status == 200)
    assert ask(sidecar.port, BIG).body == data_of(published, "big.bin")

    def healed() -> bool:
        ask(sidecar.port, "/v1/models/org/bert")
        return bool(ask(sidecar.port, "/healthz/ready").json()["status"] == "ready")

    wait_until("the sidecar to be well again", healed)


def test_an_upstream_killed_in_the_middle_is_resumed(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """What was verified before the node died is not asked for again, and the file comes out whole."""
    node = processes.serve(published.url, tmp_path / "node")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar")
    half = BIG_BYTES // 2
    assert ask(sidecar.port, BIG, {"Range": f"bytes=0-{half - 1}"}).status == 206
    node.process.kill()
    processes.restart(node)
    wait_until("the sidecar to ask the node again", lambda: ask(sidecar.port, BIG).status == 200)
    assert ask(sidecar.port, BIG).body == data_of(published, "big.bin")
    assert sidecar.metric("hotstart_origin_bytes_total") == BIG_BYTES


def test_a_proxy_that_is_its_own_origin(processes: Processes, tmp_path: Path) -> None:
    """A proxy that meets itself answers 508 and says what to look at, at once."""
    port = free_port()
    origin = ("--origin", f"http://127.0.0.1:{port}")
    listen = ("--listen", f"127.0.0.1:{port}")
    processes.hotstart("serve", *origin, "--store", f"disk:{tmp_path / 'store'}", *listen)
    wait_until("the proxy to listen", lambda: _listens(port))
    problem = ask(port, "/v1/models/org/bert").problem(508, "loop")
    assert "--origin" in problem["detail"]


def test_two_proxies_that_are_each_others_origin(processes: Processes, tmp_path: Path) -> None:
    """A loop over two proxies is found by the one that was asked first."""
    ports = [free_port(), free_port()]
    for own, other in (ports, reversed(ports)):
        store = f"disk:{tmp_path / str(own)}"
        arguments = (
            "--origin",
            f"http://127.0.0.1:{other}",
            "--store",
            store,
            "--listen",
            f"127.0.0.1:{own}",
        )
        processes.hotstart("serve", *arguments)
    wait_until("both to listen", lambda: all(_listens(port) for port in ports))
    ask(ports[0], "/v1/models/org/bert").problem(508, "loop")


def _listens(port: int) -> bool:
    try:
        return ask(port, "/healthz/live").status == 200
    except OSError:
        return False


def test_a_way_that_is_too_long(proxy: Proxy) -> None:
    """A request that has come through more proxies than any chain has is refused; others' Via is not ours."""
    ways = ", ".join(f"1.1 hotstart-{number}" for number in range(8))
    ask(proxy.port, "/v1/models", {"Via": ways}).problem(508, "loop")
    others = ", ".join(f"HTTP/1.1 varnish{number} (Varnish/7)" for number in range(30))
    assert ask(proxy.port, "/v1/models", {"Via": others}).status == 200


def test_a_token_for_the_upstream(processes: Processes, published: Published, tmp_path: Path) -> None:
    """A sidecar with the node's token is served; without it the answer says that access is denied."""
    tokens = tmp_path / "tokens"
    tokens.write_text("node-secret\n")
    node = processes.serve(published.url, tmp_path / "node", "--token-file", str(tokens))
    upstream = f"http://127.0.0.1:{node.port}"
    known = processes.serve(upstream, tmp_path / "known", "--origin-token-file", str(tokens))
    stranger = processes.serve(upstream, tmp_path / "stranger")
    assert ask(known.port, WEIGHTS).body == data_of(published, "model.safetensors")
    ask(stranger.port, WEIGHTS).problem(502, "origin-denied")
    assert "node-secret" not in known.process.stderr + node.process.stderr


def test_adopted_files_through_a_chain(processes: Processes, tmp_path: Path) -> None:
    """Files whose digests nobody has announced come through; a replaced one is another file, never a mix."""
    file = tmp_path / "origin/org/plain/1/config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    node = processes.serve(f"file://{tmp_path / 'origin'}", tmp_path / "node", *SHORT_TTL)
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar", *SHORT_TTL)
    answer = ask(sidecar.port, "/v1/models/org/plain@1/config.json")
    assert (answer.status, answer.body) == (200, b"{}")
    assert "repr-digest" not in answer.headers


@pytest.fixture
def s3_node(
    processes: Processes, published: Published, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> Proxy:
    """A proxy before a bucket with version 7 in it."""
    environment = s3_server.environment()
    publish = ("publish", str(published.folders["7"]), "org/bert@7", "--alias", "prod")
    processes.run(*publish, "--origin", f"s3://{s3_bucket}", environment=environment).check()
    return processes.serve(f"s3://{s3_bucket}", tmp_path / "node", environment=environment)


def test_the_fallback_is_passed_on(
    processes: Processes, published: Published, s3_node: Proxy, tmp_path: Path
) -> None:
    """An opening at a sidecar has the node's pre-signed URLs, which work, and nobody writes them down."""
    sidecar = processes.serve(f"http://127.0.0.1:{s3_node.port}", tmp_path / "sidecar")
    opening = ask(sidecar.port, "/v1/open/org/bert?expires_in=600").json()
    fallback = opening["fallback"]
    assert 590 <= fallback["expires_in_seconds"] <= 600
    with urllib.request.urlopen(fallback["urls"]["model.safetensors"]) as answer:
        assert answer.read() == data_of(published, "model.safetensors")
    for place in (tmp_path / "sidecar", tmp_path / "node"):
        assert not any(b"X-Amz" in path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert "X-Amz" not in sidecar.process.stderr + s3_node.process.stderr


def test_a_miss_is_redirected_over_a_chain(processes: Processes, s3_node: Proxy, tmp_path: Path) -> None:
    """Where misses are redirected, a sidecar's reader is sent to S3 with the node's signature."""
    upstream = f"http://127.0.0.1:{s3_node.port}"
    sidecar = processes.serve(upstream, tmp_path / "sidecar", "--on-miss", "redirect")
    answer = ask(sidecar.port, WEIGHTS)
    assert answer.status == 307
    assert "X-Amz-Signature" in answer.headers["location"]
    assert "X-Amz" not in sidecar.process.stderr


def test_a_stopped_upstream_holds_no_hit_up(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """A node that hangs delays nobody who reads what the sidecar has."""
    node = processes.serve(published.url, tmp_path / "node")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar", *SHORT_TTL)
    assert ask(sidecar.port, WEIGHTS).status == 200
    node.process.send(signal.SIGSTOP)
    for _ in range(3):
        assert ask(sidecar.port, WEIGHTS).body == data_of(published, "model.safetensors")
    node.process.send(signal.SIGCONT)


def test_a_slow_reader_of_a_chain_gets_bytes_as_they_come(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """A cold sidecar begins to answer before the node has the whole: the first bytes do not wait."""
    node = processes.serve(published.url, tmp_path / "node")
    sidecar = processes.serve(f"http://127.0.0.1:{node.port}", tmp_path / "sidecar")
    with connected(sidecar.port, receive_buffer=64 * 1024) as wire:
        wire.request("GET", BIG, {"Connection": "close"})
        status, _ = wire.head()
        assert status == 200
        assert wire.exactly(1000) == data_of(published, "big.bin")[:1000]
        assert wire.until_end() == data_of(published, "big.bin")[1000:]


@pytest.mark.parametrize("command", ["publish", "unpublish", "alias", "presign"])
def test_what_writes_needs_the_tree(processes: Processes, published: Published, command: str) -> None:
    """Commands that need the tree itself refuse another proxy's address in one sentence."""
    arguments = {
        "publish": (str(published.folders["7"]), "org/bert@9"),
        "unpublish": ("org/bert@9",),
        "alias": ("org/bert", "prod=7"),
        "presign": ("org/bert@7",),
    }[command]
    finished = processes.run(command, *arguments, "--origin", "http://127.0.0.1:8470")
    assert finished.status != 0
    assert "it is another proxy's address: give the origin itself" in finished.stderr
    assert "Traceback" not in finished.stderr
