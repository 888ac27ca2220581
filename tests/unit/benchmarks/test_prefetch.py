"""What the benchmark of prefetch measures, and how rounds are compared."""

from __future__ import annotations

import pytest

from benchmarks.harness.profile import PROFILES
from benchmarks.prefetch import longer, matrix


def test_the_longer_of_the_two_is_chosen_round_by_round() -> None:
    """A round in which the import was slow is compared with that import."""
    assert longer([1.0, 3.0], [2.0, 1.0]) == [2.0, 3.0]


@pytest.mark.parametrize("name", PROFILES)
def test_every_cell_has_a_name_of_its_own(name: str) -> None:
    """Results are kept by these names, and every profile measures the real model."""
    keys = [cell.key for cell in matrix(PROFILES[name])]
    assert len(set(keys)) == len(keys)
    assert keys[0] == "MiniLM fp32, 1 Gbit/s"
