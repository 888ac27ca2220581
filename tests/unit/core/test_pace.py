"""How much is asked of an origin at once."""

from __future__ import annotations

import pytest

from hotstart_proxy.core.pace import Pace

PIECE = 4 * 1024 * 1024


def test_an_unknown_origin_is_asked_for_little() -> None:
    """Before anything was observed the shortest run is right."""
    assert Pace().run(2, 8, PIECE) == 2


@pytest.mark.parametrize(
    ("first_byte_seconds", "bytes_per_second", "pieces"),
    [(0.001, 2e9, 2), (0.05, 90e6, 4), (0.1, 90e6, 8), (1.0, 90e6, 8), (0.2, 1e6, 2)],
)
def test_the_longer_the_wait_the_longer_the_run(
    first_byte_seconds: float, bytes_per_second: float, pieces: int
) -> None:
    """A request is so long that its first byte takes a fifth of it, between the bounds."""
    pace = Pace()
    pace.observed(first_byte_seconds, PIECE / bytes_per_second, PIECE)
    assert pace.run(2, 8, PIECE) == pieces


def test_one_slow_answer_changes_little() -> None:
    """An answer that was slow by chance moves the estimate by a part, and later ones move it back."""
    pace = Pace()
    for _ in range(8):
        pace.observed(0.02, PIECE / 90e6, PIECE)
    before = pace.run(2, 8, PIECE)
    pace.observed(0.1, PIECE / 90e6, PIECE)
    assert pace.run(2, 8, PIECE) <= before + 2
    for _ in range(20):
        pace.observed(0.02, PIECE / 90e6, PIECE)
    assert pace.run(2, 8, PIECE) == before


def test_a_body_that_came_at_once_tells_no_rate() -> None:
    """An answer without anything after its first bytes says how long it took, and nothing else."""
    pace = Pace()
    pace.observed(0.2, 0.0, 0)
    assert pace.run(2, 8, PIECE) == 2
