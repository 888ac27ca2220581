"""Sources that fail in every mixture: the load gives the right tensors, or the one documented error."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import hotstart
from hotstart.sources.base import SourceKind
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with

WEIGHTS = "model.safetensors"
KINDS = (SourceKind.UNIX, SourceKind.TCP, SourceKind.PRESIGNED, SourceKind.ORIGIN)


def damaging(seed: int, every: int) -> object:
    """Return what flips a bit in about one receive of so many."""
    noise = random.Random(seed)
    lock = threading.Lock()

    def damage(path: str, start: int, data: bytes) -> bytes:
        with lock:
            is_hit, at = noise.randrange(every) == 0, noise.randrange(len(data))
        if not is_hit:
            return data
        damaged = bytearray(data)
        damaged[at] ^= 1
        return bytes(damaged)

    return damage


def source(noise: random.Random, bert: Version, number: int, *, is_last: bool) -> FaultySource:
    size = len(bert.content[WEIGHTS])
    made = FaultySource(bert, f"source {number}", noise.choice(KINDS))
    made.is_local = made.kind is SourceKind.UNIX
    if noise.random() < 0.3:
        made.lacks = (".zst", ".zsp")
    if noise.random() < 0.4:
        made.cuts_every = noise.choice([100_000, 1_000_000, 5_000_000])
    if not is_last:
        made.dies_after = noise.choice([0, 1, 5, 3000, noise.randrange(size), noise.randrange(size)])
        if noise.random() < 0.3:
            made.damage = damaging(noise.random().__hash__(), noise.choice([5, 50, 500]))  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("seed", range(20))
def test_the_tensors_are_right_whatever_fails(published: Published, bert: Version, seed: int) -> None:
    """With one source left that works, everything that is checked arrives bit by bit."""
    noise = random.Random(seed)
    count = noise.randrange(1, 5)
    sources = [source(noise, bert, number, is_last=number == count - 1) for number in range(count)]
    expected = load_file(published.weights("org/bert@1")[0])
    names = None if noise.random() < 0.5 else noise.sample(sorted(expected), noise.randrange(len(expected)))
    model = open_with(bert, *sources)
    found = model.load(
        verify="pieces", compression=noise.choice(["auto", "none", "zstd", "planes"]), tensors=names
    )
    assert sorted(found) == sorted(expected if names is None else names)
    for name, array in found.items():
        assert array.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("seed", range(8))
def test_downloads_are_right_or_not_there(bert: Version, tmp_path: Path, seed: int) -> None:
    """When everything fails, what is in the folder is whole, and the error lists every source."""
    noise = random.Random(seed)
    sources = [source(noise, bert, number, is_last=False) for number in range(noise.randrange(1, 4))]
    for item in sources:
        # What is not checked may arrive damaged.
        item.kind = SourceKind.TCP
    with contextlib.suppress(hotstart.AllSourcesFailed, hotstart.IntegrityError):
        open_with(bert, *sources).download(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == bert.content[str(path.relative_to(tmp_path))]
