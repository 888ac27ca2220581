"""Which benchmarks there are, in the order in which they run."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from benchmarks.harness.profile import Profile
from benchmarks.harness.results import Results

__all__ = ["NAMES", "Benchmark", "load"]

# Each is a module of this folder with SUMMARY and run(profile, results).
NAMES: tuple[str, ...] = (
    "serve",
    "load",
    "engine",
    "format",
    "scale",
    "miss",
    "prefetch",
    "cold_start",
    "gpu",
    "store_open",
    "tiers",
)


class Benchmark(Protocol):
    """What a module of the suite offers."""

    SUMMARY: str

    def run(self, profile: Profile, results: Results) -> None:
        """Measure, and put the figures into results."""


def load(name: str) -> Benchmark:
    """Import one of ``NAMES``."""
    return cast("Benchmark", import_module(f"benchmarks.{name}"))
