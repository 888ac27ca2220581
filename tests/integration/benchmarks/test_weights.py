"""Weights to measure with are what real ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from safetensors import safe_open
from safetensors.numpy import load_file

from benchmarks.harness import weights
from benchmarks.harness.weights import Dtype, minilm, model_folder, tiled

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is made apart from what benchmarks keep."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(weights, "cache_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", [4, 3 * MIB + 4, 100 * MIB])
def test_a_file_has_the_size_it_should(cache: Path, size: int, dtype: Dtype) -> None:
    """A file holds as many bytes of tensors as were asked for, readable by the safetensors library."""
    path = tiled(size, dtype)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    assert path.stat().st_size == size + 8 + header
    with safe_open(path, framework="numpy") as opened:
        assert len(opened.keys()) > 0
    assert list(cache.iterdir()) == [path]


def test_a_file_is_made_once() -> None:
    """The second call finds the file of the first; another seed gives other bytes."""
    first = tiled(MIB)
    stamp = first.stat().st_mtime_ns
    assert tiled(MIB) == first
    assert first.stat().st_mtime_ns == stamp
    assert tiled(MIB, seed=1).read_bytes() != first.read_bytes()


def test_no_two_tiles_are_alike() -> None:
    """A file of several tiles repeats no weights."""
    path = tiled(200 * MIB)
    tensors = load_file(path)
    name = "encoder.layer.0.attention.self.query.weight"
    first, second = tensors[f"block.0.{name}"], tensors[f"block.1.{name}"]
    assert first.shape == second.shape
    assert (first != second).mean() > 0.99


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_tiles_compress_as_the_real_weights(dtype: Dtype) -> None:
    """Tiled weights compress within two percent of a megabyte as the model's own do."""
    ratios = []
    for path in (minilm(dtype), tiled(100 * MIB, dtype)):
        tensors = load_file(path) if dtype == "fp32" else None
        data = path.read_bytes() if tensors is None else b"".join(t.tobytes() for t in tensors.values())
        # The middle: the embeddings at one end of it are as long in both.
        sample = data[len(data) // 3 : len(data) // 3 + 16 * MIB]
        ratios.append(len(zstandard.ZstdCompressor(1).compress(sample)) / len(sample))
    assert ratios[0] == pytest.approx(ratios[1], abs=0.02)


def test_a_folder_to_publish(tmp_path: Path) -> None:
    """A model's folder holds the weights under the usual name, and a configuration."""
    folder = model_folder(tmp_path / "model", tiled(MIB))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == tiled(MIB).read_bytes()
