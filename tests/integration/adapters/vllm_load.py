"""Loads a model as a worker of vLLM does: ``vllm_load.py MODEL REVISION``; prints digests as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from vllm.model_executor.model_loader import get_model_loader
from vllm.plugins import load_general_plugins


class Architecture(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """Takes tensors as vLLM's models do, and knows one that it has no use for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, str] = {}
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> set[str]:
        """Note down the digest of every tensor."""
        for name, tensor in weights:
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            self.seen[name] = hashlib.sha256(data).hexdigest()
        return set(self.seen)

    def is_unused_checkpoint_weight(self, name: str) -> bool:
        """Tell the ones that vLLM computes for itself."""
        return name.endswith("position_ids")


def main(model: str, revision: str) -> None:
    """Load, by the plugin that vLLM finds, and print the digests."""
    load_general_plugins()
    loader: Any = get_model_loader(
        SimpleNamespace(load_format="hotstart", safetensors_load_strategy=None, device=None)
    )
    config = SimpleNamespace(model=model, revision=revision or None, model_weights="", quantization=None)
    architecture = Architecture()
    loader.download_model(config)
    loader.load_weights(architecture, config)
    print(json.dumps(architecture.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
