"""The real proxy: TCP, Unix socket, shared volume; killed in the middle."""

from __future__ import annotations

import pytest

import hotstart
from tests.integration.client.conftest import Published, warm
from tests.support.models import assert_same_tensors
from tests.support.processes import Processes, Proxy


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_every_way_in_gives_the_same_tensors(proxy: Proxy, published: Published, compression: str) -> None:
    """Cold and warm, over TCP and the Unix socket, the tensors are the file's."""
    file = published.weights("org/bert@1")[0]
    for url in (proxy.url, proxy.url, proxy.unix_url):
        for verify in (None, "full"):
            found = hotstart.load("org/bert@1", proxy=url, compression=compression, verify=verify)
            assert_same_tensors(found, file)
            assert found.report.opened_by == f"proxy {url}"
            assert not found.report.retries
            assert not found.report.failovers


def test_the_shared_volume_is_mapped(proxy: Proxy, published: Published) -> None:
    """What the store holds is mapped and not moved; what it does not is had from the proxy."""
    model = hotstart.open("org/bert@1", proxy=proxy.unix_url, shared_dir=str(proxy.store))
    file = published.weights("org/bert@1")[0]
    assert model.load(compression="none").report.representations == ("identity",)
    warm(proxy, model)
    for verify in (None, "pieces", "full"):
        found = model.load(verify=verify)
        assert found.report.representations == ("mapped",)
        assert sum(found.report.received_bytes.values()) == 0
        assert_same_tensors(found, file)
    # Private: writing changes neither the store nor anybody else's tensors.
    found["embeddings.position_ids"][:] = -1
    assert_same_tensors(model.load(verify="full"), file)
    with hotstart.safe_open("org/bert@1", proxy=proxy.unix_url, shared_dir=str(proxy.store)) as weights:
        assert weights.get_tensor("embeddings.position_ids").sum() > 0


def test_damage_in_the_shared_volume_is_found_if_looked_for(proxy: Proxy, published: Published) -> None:
    """A blob that rots at rest fails the check that was asked for, and its bytes come from the origin."""
    origin, shared_dir = published.origin, str(proxy.store)
    model = hotstart.open("org/bert@1", proxy=proxy.unix_url, shared_dir=shared_dir, origin=origin)
    warm(proxy, model)
    blob = max((proxy.store / "blobs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(9_000_000)
        byte = file.read(1)
        file.seek(9_000_000)
        file.write(bytes((byte[0] ^ 1,)))
    found = model.load(verify="pieces")
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert any("is damaged" in reason for reason in found.report.failovers)
    assert found.report.received_bytes[f"origin {origin}"] > 0


def test_a_proxy_that_is_killed_is_followed_by_the_origin(proxy: Proxy, published: Published) -> None:
    """A model opened before its proxy was killed loads from the origin, bit by bit."""
    model = hotstart.open("org/bert@2", proxy=proxy.url, origin=published.origin)
    stream = model.stream(compression="none")
    name, tensor = next(stream)
    proxy.process.kill()
    found = {name: tensor, **dict(stream)}
    expected = hotstart.load("org/bert@2", origin=published.origin)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    assert len(model.load()) == 16
    assert model.report.failovers


def test_nobody_there_is_an_error_that_lists_who_was_asked(proxy: Proxy, processes: Processes) -> None:
    """Without proxy and origin the error says of each what happened, and the command exits 1."""
    proxy.process.kill()
    with pytest.raises(hotstart.AllSourcesFailed, match="nobody listens there"):
        hotstart.open("org/bert@1", proxy=proxy.url)
    finished = processes.run("load", "org/bert@1", "--proxy", proxy.url, "--origin", "file:///nowhere")
    assert finished.status == 1
    assert "1. proxy http://127.0.0.1" in finished.stderr
    assert "2. origin file:///nowhere" in finished.stderr
