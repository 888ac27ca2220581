"""Which representation a load asks for: the decision, what it is fed with, and what it says."""

from __future__ import annotations

import pytest

from hotstart.engine.picking import choose

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE
# Of weights in 32 bits; those in 16 save more.
FLOATS = {"zstd": int(0.92 * GIBIBYTE), "planes": int(0.83 * GIBIBYTE)}
HALVES = {"zstd": int(0.78 * GIBIBYTE), "planes": int(0.685 * GIBIBYTE)}
GIGABIT = 1e9 / 8 * 0.96


@pytest.mark.parametrize(
    ("gigabits", "cpus", "twins", "expected"),
    [
        (1, 2, FLOATS, "planes"),
        (1, 1, HALVES, "planes"),
        (2.5, 2, FLOATS, "planes"),
        (2.5, 1, HALVES, "planes"),
        (10, 2, FLOATS, "plain"),
        (10, 2, HALVES, "plain"),
        (10, 16, HALVES, "planes"),
        (50, 4, HALVES, "plain"),
        (1, 2, {"zstd": FLOATS["zstd"]}, "zstd"),
        (1, 2, {"zstd": int(0.97 * GIBIBYTE)}, "plain"),
        (1, 2, {}, "plain"),
    ],
)
def test_what_is_there_first_is_picked(
    gigabits: float, cpus: int, twins: dict[str, int], expected: str
) -> None:
    """On slow links the smallest; on fast ones plain bytes, unless there are CPUs enough to decode."""
    choice = choose(GIBIBYTE, twins, gigabits * GIGABIT, cpus)
    assert choice.name == expected
    assert f"bytes arrive at {gigabits * 120:.1f} MB/s" in choice.reason or gigabits >= 8


def test_the_reason_is_a_sentence() -> None:
    """It names the link, the share of the bytes, and the CPUs."""
    assert str(choose(GIBIBYTE, FLOATS, GIGABIT, 2)) == (
        "planes: bytes arrive at 120.0 MB/s, only 83% of them have to, and 2 CPUs can keep up"
    )
    assert str(choose(GIBIBYTE, FLOATS, 10 * GIGABIT, 1)) == (
        "plain: bytes arrive at 1.2 GB/s, and 1 CPU could hardly decode a twin as fast"
    )
    assert str(choose(GIBIBYTE, {}, GIGABIT, 1)) == (
        "plain: bytes arrive at 120.0 MB/s, and a twin would not save enough of them"
    )
