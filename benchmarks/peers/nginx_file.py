"""nginx and the safetensors library, by way of a file: four ranged connections into a new file that is then
loaded with ``load_file``, which maps it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import safetensors.torch

from benchmarks.peers.measuring import serve
from benchmarks.peers.nginx_memory import receive, size_of


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Download and load; the file is removed at once, its pages live as long as the tensors."""
    descriptor, path = tempfile.mkstemp(dir=request["scratch"])
    size = size_of(request["url"])
    os.truncate(descriptor, size)
    with mmap.mmap(descriptor, size) as file, memoryview(file) as view:
        receive(request["url"], view)
    os.close(descriptor)
    tensors: Mapping[str, Any] = safetensors.torch.load_file(path)
    os.unlink(path)
    return tensors


if __name__ == "__main__":
    serve(load, "safetensors", "torch")
