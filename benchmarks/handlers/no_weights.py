"""The floor: imports, and an inference with weights that are made up on the spot."""

from __future__ import annotations

import json
import os
import sys
import time

STAMPS = {"started": time.monotonic()}

import torch  # noqa: E402

from benchmarks.handlers.encoder import similarity  # noqa: E402

STAMPS["imported"] = time.monotonic()


def main() -> None:
    """Infer once with weights of the shapes that a header names."""
    with open(sys.argv[1], "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    weights = {
        name: torch.zeros(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }
    STAMPS["weights"] = time.monotonic()
    similarity(weights)
    STAMPS["inferred"] = time.monotonic()
    print(json.dumps(STAMPS), flush=True)
    # Not the interpreter's end, which is not measured.
    os._exit(0)


main()
