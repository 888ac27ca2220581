"""hotstart itself: one call, from a reference to tensors.

The modules that it imports when it first needs them are imported before, as the peers' are.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import hotstart
from benchmarks.peers.measuring import serve

__all__ = ["load"]

# What a load has nothing to do with: commands, and adapters, which import frameworks of their own.
_OTHERS = tuple(f"hotstart.{name}" for name in ("commands", "kserve", "onnx", "transformers", "vllm"))


def import_all() -> None:
    """Import what hotstart imports when it first needs it."""
    for package in ("http.client", "torch", "zstandard"):
        import_module(package)
    for module in pkgutil.walk_packages(hotstart.__path__, "hotstart."):
        if not module.name.startswith(_OTHERS):
            import_module(module.name)


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
    import_all()
    serve(load, "zstandard", "torch")
