"""hotstart itself: one call, from a reference to tensors.

The modules that it imports when it first needs them are imported before, as the peers' are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
import zstandard

import hotstart
import hotstart.calls
import hotstart.engine.worker
import hotstart.frameworks.torch
import hotstart.loading
import hotstart.sources.http
import hotstart.sources.proxy
import hotstart.sources.shared
from benchmarks.peers.measuring import serve

__all__ = ["load"]

# What hotstart imports when it is first needed.
_READY = (numpy, torch, zstandard, hotstart.calls, hotstart.engine.worker, hotstart.frameworks.torch)


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Load by way of a proxy's listener, or of its store where that is shared."""
    way = request["way"]
    return hotstart.load(
        request["reference"],
        framework="torch",
        compression=request["compression"],
        proxy=request["proxy_url"] if way == "tcp" else request["proxy_unix"],
        shared_dir=request["store"] if way == "shared" else None,
    )


if __name__ == "__main__":
    serve(load, "zstandard", "torch")
