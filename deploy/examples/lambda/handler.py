"""A Lambda function that embeds tokens: its model is loaded in the init phase, before the first event."""

from __future__ import annotations

import os
from typing import Any

import hotstart

# Bytes begin to arrive here, and go on arriving while what stands below is imported.
_loading = hotstart.prefetch(os.environ["MODEL"], framework="numpy")

import numpy  # noqa: E402 - meanwhile the model arrives

# Here the init phase waits. An error ends it, and Lambda starts it again with the first event.
_weights = _loading.result()
_embeddings = _weights["embeddings.word_embeddings.weight"]


def handle(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Return the mean of the tokens' embeddings, and the version that they are of."""
    rows = _embeddings[numpy.asarray(event["tokens"], dtype=numpy.int64)]
    return {"version": _weights.version, "embedding": rows.mean(axis=0).tolist()}
