"""What a soak has published: every version's folder, kept to the end, whose files tell which it is."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from tests.support.models import Tensors

__all__ = ["CONFIG", "WEIGHTS", "make_version", "stamp_of", "versions"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_MEBIBYTE = 1024 * 1024


def stamp_of(model: str, version: str) -> str:
    """Return the text that every file of a version carries."""
    return f"{model}@{version}"


def make_version(root: Path, model: str, version: str, seed: int) -> Path:
    """Write a version's folder below root, and return it; it appears whole, or not at all."""
    rng = random.Random(seed)
    noise = numpy.random.default_rng(seed)
    folder = root / model / version
    making = root / f"making-{os.getpid()}"
    making.mkdir(parents=True)
    rows = rng.randint(1, 9) * _MEBIBYTE // (4 * 256) + rng.randint(0, 100)
    tensors: Tensors = {
        "weight": noise.normal(scale=0.02, size=(rows, 256)).astype(numpy.float32),
        "bias": noise.normal(size=(rows % 97 + 1,)).astype(numpy.float16),
    }
    stamp = stamp_of(model, version)
    save_file(dict(tensors), making / WEIGHTS, metadata={"stamp": stamp})
    (making / CONFIG).write_text(json.dumps({"stamp": stamp, "filler": noise.bytes(2000).hex()}))
    folder.parent.mkdir(parents=True, exist_ok=True)
    making.rename(folder)
    return folder


def versions(root: Path, model: str) -> list[str]:
    """Return the versions of a model whose folders are there, oldest first."""
    folder = root / model
    return sorted(os.listdir(folder), key=int) if folder.is_dir() else []
