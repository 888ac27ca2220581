"""What bounds every loader: a plain map of a local file, the line, and memcpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy
import safetensors.torch

from benchmarks.peers.measuring import serve
from benchmarks.peers.nginx_memory import receive

__all__ = ["load"]

# Touched before the clock runs: the line and memcpy are limits, which no page fault slows down.
_buffers: dict[str, Any] = {}


def prepare(request: Mapping[str, Any]) -> None:
    """Take memory, and touch it."""
    if request["limit"] == "mmap":
        return
    _buffers["target"] = numpy.ones(request["size"], numpy.uint8)
    if request["limit"] == "memcpy":
        _buffers["source"] = numpy.ones(request["size"], numpy.uint8)


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Do what the request names."""
    return _LIMITS[request["limit"]](request)


def _mmap(request: Mapping[str, Any]) -> Mapping[str, Any]:
    tensors: Mapping[str, Any] = safetensors.torch.load_file(request["path"])
    return tensors


def _line(request: Mapping[str, Any]) -> Mapping[str, Any]:
    receive(request["url"], memoryview(_buffers["target"]))
    return {"all": _buffers["target"]}


def _memcpy(request: Mapping[str, Any]) -> Mapping[str, Any]:
    numpy.copyto(_buffers["target"], _buffers["source"])
    return {"all": _buffers["target"]}


_LIMITS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "mmap": _mmap,
    "line": _line,
    "memcpy": _memcpy,
}

if __name__ == "__main__":
    serve(load, "safetensors", "torch", prepare=prepare)
