"""tensorizer, over HTTP: a file in its own format, read through curl by as many readers as it chooses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from tensorizer import TensorDeserializer, TensorSerializer, stream_io

from benchmarks.peers.measuring import serve


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stream all tensors into memory of this host."""
    deserializer = TensorDeserializer(stream_io.open_stream(request["tensorizer_url"]), device="cpu")
    return {name: deserializer[name] for name in deserializer}


def convert(source: str, target: str) -> None:
    """Write the tensors of a Safetensors file in tensorizer's format."""
    serializer = TensorSerializer(target)
    serializer.write_state_dict(safetensors.torch.load_file(source))
    serializer.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        convert(*sys.argv[1:])
    else:
        serve(load, "tensorizer", "torch")
