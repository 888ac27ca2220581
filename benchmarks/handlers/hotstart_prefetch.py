"""The same handler with hotstart: the load begins before the imports; the environment names its sources."""

from __future__ import annotations

import time

STAMPS = {"started": time.monotonic()}

import sys  # noqa: E402

import hotstart  # noqa: E402

LOADING = hotstart.prefetch(sys.argv[1], framework="torch")

import json  # noqa: E402
import os  # noqa: E402

from benchmarks.handlers.encoder import similarity  # noqa: E402

STAMPS["imported"] = time.monotonic()


def main() -> None:
    """Wait for the weights, infer once, and print when each was done."""
    weights = LOADING.result()
    STAMPS["weights"] = time.monotonic()
    found = similarity(weights)
    STAMPS["inferred"] = time.monotonic()
    report = weights.report
    facts = {
        "load_seconds": report.open_seconds + report.last_tensor_seconds,
        "representations": list(report.representations),
        "similarity": found,
    }
    print(json.dumps({**STAMPS, **facts}), flush=True)
    # Not the interpreter's end, which is not measured.
    os._exit(0)


main()
