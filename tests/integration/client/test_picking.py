"""compression="auto": what is asked for over links of several speeds, and that it says so."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hotstart
from hotstart.engine import picking
from hotstart.sources.base import SourceKind
from hotstart.wire.manifest import Representation
from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.client.conftest import Published, warm
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.models import assert_same_tensors, make_model
from tests.support.processes import Proxy

MEBIBYTE = 1024 * 1024


@dataclass(eq=False)
class Link(FaultySource):
    """A source behind a link of so many bytes a second.

    Attributes:
        rate: bytes a second, over all connections.
        lacking: suffixes of representations that it would have to fetch first.
    """

    rate: float = 1e12
    lacking: tuple[str, ...] = ()
    gate_lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, representation: Representation) -> bool:
        return not representation.path.endswith(self.lacking) if self.lacking else True

    def take(self, path: str, start: int, limit: int, left: int | None) -> bytes:
        data = super().take(path, start, limit, left)
        with self.gate_lock:
            time.sleep(len(data) / self.rate)
        return data


@dataclass(frozen=True, slots=True)
class Weights:
    """A version.

    Attributes:
        best: the name of the smallest twin.
    """

    version: Version
    file: Path
    best: str


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Weights of 64 MiB: enough requests that some are left when the link has been measured."""
    base = tmp_path_factory.mktemp("picking")
    folder = make_model(base / "model", mebibytes=64)
    (base / "origin").mkdir()

    async def run() -> None:
        async with DirectoryOrigin(base / "origin") as origin:
            await publish(origin, folder, Reference("org/wide", "1"))

    asyncio.run(run())
    version = Version.read(base / "origin", "org/wide", "1")
    (file,) = (file for file in version.manifest.files if file.path == "model.safetensors")
    suffix = min(file.twins, key=lambda twin: twin.size).suffix
    best = next(name for name, its in picking.TWIN_SUFFIXES.items() if its == suffix)
    return Weights(version, folder / "model.safetensors", best)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known of links but what a test measures, on a sample that is soon there."""
    monkeypatch.setattr(picking, "_known", picking._Known())
    monkeypatch.setattr(picking, "_SAMPLE_BYTES", 2 * MEBIBYTE)
    # Whatever else runs on this machine.
    monkeypatch.setattr(picking, "_CPU_SHARE", 100.0)


def test_a_slow_link_is_changed_over_to_the_twin(weights: Weights) -> None:
    """It begins with plain bytes, and asks for the rest as a twin once it knows the link."""
    source = Link(weights.version, rate=100e6)
    found = open_with(weights.version, source).load()
    assert_same_tensors(found, weights.file)
    report = found.report
    assert report.representations == ("identity", weights.best)
    assert report.compression.startswith(f"{weights.best}: bytes arrive at ")
    assert report.verification == "pieces, frames"
    (received,) = report.received_bytes.values()
    assert received < 0.97 * weights.file.stat().st_size
    # What both parts touch comes twice: a frame or two.
    assert received == source.total


def test_what_was_measured_is_known_the_next_time(weights: Weights) -> None:
    """A second load over the same link asks for the twin from the first byte."""
    source = Link(weights.version, rate=100e6)
    open_with(weights.version, source).load()
    report = open_with(weights.version, source).load().report
    assert report.representations == (weights.best,)
    assert report.verification == "frames"


def test_a_twin_that_is_slower_than_plain_bytes_is_given_up(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file gets done more slowly than plain bytes would, the rest is plain, as is the next load."""
    monkeypatch.setattr(picking, "_PACE_BYTES", 16 * MEBIBYTE)
    known = picking._Known()
    # Once measured so, and much slower now: it looks as if decoding were what takes the time.
    known.links["faulty"] = 10e9
    monkeypatch.setattr(picking, "_known", known)
    source = Link(weights.version, rate=100e6)
    found = open_with(weights.version, source).load()
    assert_same_tensors(found, weights.file)
    assert found.report.representations == (weights.best, "identity")
    assert found.report.compression.startswith(f"plain: with {weights.best} ")
    again = open_with(weights.version, Link(weights.version, rate=100e6)).load()
    assert again.report.representations == ("identity",)
    assert again.report.compression == found.report.compression


def test_a_fast_link_keeps_to_plain_bytes(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where decoding could not keep up, nothing but plain bytes is asked for."""
    monkeypatch.setattr(picking, "_CPU_SHARE", 1e-9)
    found = open_with(weights.version, Link(weights.version)).load()
    assert_same_tensors(found, weights.file)
    assert found.report.representations == ("identity",)
    assert "could hardly decode a twin as fast" in found.report.compression


@pytest.mark.parametrize("names", [["embeddings.word_embeddings.weight", "logit_scale"], None])
@pytest.mark.parametrize("verify", ["none", "pieces"])
def test_it_changes_over_whatever_is_wanted_and_checked(
    weights: Weights, names: list[str] | None, verify: str
) -> None:
    """Some tensors or all, checked or not: the tensors are those of the file."""
    source = Link(weights.version, rate=100e6)
    found = open_with(weights.version, source).load(tensors=names, verify=verify)
    whole = open_with(weights.version, Link(weights.version)).load(compression="none")
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: whole[name].tobytes() for name in (names or whole)
    }


def test_a_proxy_without_the_twin_is_not_made_to_fetch_it(weights: Weights) -> None:
    """A twin that the proxy does not hold is not asked for, however slow the link."""
    source = Link(weights.version, rate=100e6, lacking=(".zst", ".zsp"))
    report = open_with(weights.version, source).load().report
    assert report.representations == ("identity",)
    assert report.compression == "plain: faulty holds no twin of all of it"


def test_a_proxy_with_the_twin_alone_is_asked_for_it(weights: Weights) -> None:
    """Where plain bytes would have to be fetched first, the twin is what is there."""
    source = Link(weights.version, lacking=(".safetensors",))
    report = open_with(weights.version, source).load().report
    assert report.representations == (weights.best,)
    assert report.compression == f"{weights.best}: faulty holds it, and not the plain bytes"


@pytest.mark.parametrize(
    ("kind", "is_local"), [(SourceKind.UNIX, True), (SourceKind.TCP, True), (SourceKind.ORIGIN, True)]
)
def test_on_this_host_bytes_are_plain(bert: Version, kind: SourceKind, is_local: bool) -> None:
    """No twin is decoded where moving bytes costs less."""
    report = open_with(bert, FaultySource(bert, kind=kind, is_local=is_local)).load().report
    assert report.representations == ("identity",)
    assert report.compression == "plain: on this host, moving bytes costs less than decoding a twin"


def test_what_the_proxy_holds_comes_with_opening(proxy: Proxy, published: Published) -> None:
    """A real proxy that was warmed with plain bytes is not asked for a twin."""
    warm(proxy, hotstart.open("org/bert@1", proxy=proxy.url))
    model = hotstart.open("org/bert@1", proxy=proxy.url)
    source = model.sources.current()
    (file,) = model.selection().files
    twins = [found for found in file.representations() if found.path != file.path]
    assert source.holds(file.identity())
    assert twins
    assert not any(source.holds(found) for found in twins)
