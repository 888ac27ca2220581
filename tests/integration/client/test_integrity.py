"""Wrong bytes: fetched again, then had from elsewhere, and never returned where they are checked."""

from __future__ import annotations

import threading

import pytest

import hotstart
from hotstart.sources.base import SourceKind
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.models import assert_same_tensors

WEIGHTS = "model.safetensors"
AT = 9_000_000


class Flip:
    """Flips a bit at one place, so many times."""

    def __init__(self, times: int, at: int = AT) -> None:
        self._left = times
        self._at = at
        self._lock = threading.Lock()

    def __call__(self, path: str, start: int, data: bytes) -> bytes:
        if not path.startswith(WEIGHTS) or not start <= self._at < start + len(data):
            return data
        with self._lock:
            if not self._left:
                return data
            self._left -= 1
        damaged = bytearray(data)
        damaged[self._at - start] ^= 0x10
        return bytes(damaged)


@pytest.mark.parametrize("at", [3, 100, AT])
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_damage_on_the_way_is_mended_by_the_same_source(
    published: Published, bert: Version, compression: str, at: int
) -> None:
    """A piece or frame that arrives damaged once is fetched again, and nothing else is."""
    source = FaultySource(bert, damage=Flip(1, at))
    other = FaultySource(bert, "other")
    model = open_with(bert, source, other)
    assert_same_tensors(model.load(compression=compression), published.weights("org/bert@1")[0])
    assert other.fetches == 0
    assert len(model.report.retries) == 1
    assert "is damaged" in model.report.retries[0]
    assert source.total <= len(bert.content[WEIGHTS]) + 9 * 1024 * 1024


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_a_source_with_damaged_bytes_is_given_up(
    published: Published, bert: Version, compression: str
) -> None:
    """Bytes that are damaged at the source itself are had from the next one."""
    source = FaultySource(bert, "rotten", damage=Flip(1000))
    other = FaultySource(bert, "other", SourceKind.ORIGIN)
    model = open_with(bert, source, other)
    assert_same_tensors(model.load(compression=compression), published.weights("org/bert@1")[0])
    assert other.total > 0
    assert "rotten" in model.report.failovers[0]
    assert "is damaged" in model.report.failovers[0]


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_damage_everywhere_is_an_error_that_names_the_place(bert: Version, compression: str) -> None:
    """If no source has the published bytes, that is an IntegrityError, and no tensor is returned."""
    sources = [FaultySource(bert, name, damage=Flip(1000)) for name in ("first", "second")]
    expected = r"piece 2 of model\.safetensors" if compression == "none" else r"frame at byte \d+ of"
    with pytest.raises(hotstart.IntegrityError, match=expected):
        open_with(bert, *sources).load(compression=compression)


def test_damage_passes_where_nothing_is_checked(bert: Version) -> None:
    """verify='none' takes what comes: that is what it says."""
    source = FaultySource(bert, damage=Flip(1000))
    found = open_with(bert, source).load(compression="none", verify="none")
    assert found.report.verification == "none"


def test_this_host_is_trusted_unless_told_otherwise(published: Published, bert: Version) -> None:
    """Over a Unix socket nothing is checked by default, and pieces are if asked for."""
    rotten = FaultySource(bert, "rotten", SourceKind.UNIX, damage=Flip(1000))
    assert open_with(bert, rotten).load().report.verification == "none"
    model = open_with(bert, rotten, FaultySource(bert, "other"))
    assert_same_tensors(model.load(verify="pieces"), published.weights("org/bert@1")[0])
    assert model.report.verification == "pieces"


def test_side_files_are_checked(bert: Version) -> None:
    """A damaged tokenizer is an error too."""

    def damage(path: str, start: int, data: bytes) -> bytes:
        return data[:-1] + b"?"

    with pytest.raises(hotstart.IntegrityError, match=r"piece 0 of config\.json"):
        open_with(bert, FaultySource(bert, damage=damage)).read("config.json")


def test_a_sha256_that_disagrees_is_an_error(bert: Version) -> None:
    """verify='full' compares the sha256, and delivers no tensor before it has."""
    from dataclasses import replace

    from hotstart.wire.manifest import Manifest

    manifest = bert.manifest
    files = tuple(
        replace(file, sha256="0" * 64, id="0" * 64) if file.path == WEIGHTS else file
        for file in manifest.files
    )
    lying = Version(
        Manifest(manifest.model, manifest.version, manifest.published_at, files), b"{}", bert.content
    )
    tensors = open_with(lying, FaultySource(lying)).stream(verify="full")
    with pytest.raises(hotstart.IntegrityError, match="sha256 000"):
        next(tensors)
