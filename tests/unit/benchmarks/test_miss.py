"""What the benchmark of misses measures."""

from __future__ import annotations

import pytest

from benchmarks.harness.profile import PROFILES
from benchmarks.miss import best, matrix


def test_the_best_arm_has_the_least_median() -> None:
    """One lucky round makes no arm the best."""
    assert best({"lucky": [0.1, 3.0, 3.0], "steady": [2.0, 2.0, 2.0]}) == "steady"


@pytest.mark.parametrize("name", PROFILES)
def test_every_cell_has_a_name_of_its_own(name: str) -> None:
    """Results are kept by these names; every profile has first loads and many readers."""
    cells = matrix(PROFILES[name])
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    assert {bool(cell.readers) for cell in cells} == {True, False}


def test_the_whole_matrix_holds_the_goals() -> None:
    """1 and 4 GiB at 50, 100 and 200 ms, with and without a host's bandwidth."""
    keys = {cell.key for cell in matrix(PROFILES["full"])}
    for size in ("1 GiB", "4 GiB"):
        for first_byte in (50, 100, 200):
            assert f"{size}, {first_byte} ms" in keys
            assert f"{size}, {first_byte} ms, 2.5 Gbit/s in all" in keys
