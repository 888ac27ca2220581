"""A BERT encoder's forward pass, written out: what a handler does with the weights once it has them.

It imports torch, and nothing of ours: it runs under the peers' interpreter as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

__all__ = ["HEADS", "SENTENCES", "embed", "similarity"]

HEADS = 12
_EPSILON = 1e-12
# "the weather is lovely today" and "it is so sunny outside", as the model's tokenizer has them.
SENTENCES = ((101, 1996, 4633, 2003, 8403, 2651, 102), (101, 2009, 2003, 2061, 11559, 2648, 102))


def embed(weights: Mapping[str, Any], tokens: Any) -> Any:
    """Return one normalized vector a sentence.

    Args:
        weights: by their names in the checkpoint.
        tokens: ids, one row a sentence, all of one length.
    """
    positions = torch.arange(tokens.shape[1])
    hidden = weights["embeddings.word_embeddings.weight"][tokens]
    hidden = hidden + weights["embeddings.position_embeddings.weight"][positions]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
    hidden = _norm(weights, "embeddings.LayerNorm", hidden)
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        hidden = _layer(weights, f"encoder.layer.{layer}", hidden)
        layer += 1
    return functional.normalize(hidden.mean(dim=1), dim=1)


def similarity(weights: Mapping[str, Any]) -> float:
    """Return the cosine of the two sentences."""
    with torch.inference_mode():
        first, second = embed(weights, torch.tensor(SENTENCES))
        return float(first @ second)


def _layer(weights: Mapping[str, Any], name: str, hidden: Any) -> Any:
    query, key, value = (
        _heads(_dense(weights, f"{name}.attention.self.{part}", hidden)) for part in ("query", "key", "value")
    )
    attended = functional.scaled_dot_product_attention(query, key, value)
    attended = attended.transpose(1, 2).reshape(hidden.shape)
    attended = _dense(weights, f"{name}.attention.output.dense", attended)
    hidden = _norm(weights, f"{name}.attention.output.LayerNorm", hidden + attended)
    inner = functional.gelu(_dense(weights, f"{name}.intermediate.dense", hidden))
    inner = _dense(weights, f"{name}.output.dense", inner)
    return _norm(weights, f"{name}.output.LayerNorm", hidden + inner)


def _dense(weights: Mapping[str, Any], name: str, hidden: Any) -> Any:
    return functional.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Any], name: str, hidden: Any) -> Any:
    return functional.layer_norm(
        hidden, hidden.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], _EPSILON
    )


def _heads(hidden: Any) -> Any:
    rows, length, width = hidden.shape
    return hidden.view(rows, length, HEADS, width // HEADS).transpose(1, 2)
