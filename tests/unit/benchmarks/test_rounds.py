"""The order of measurements."""

from __future__ import annotations

import pytest

from benchmarks.harness.rounds import interleave, orders


def test_every_arm_has_its_turn_in_every_round() -> None:
    """Every round holds every arm once, and the values come in the order of rounds."""
    seen: list[str] = []

    def arm(name: str) -> int:
        seen.append(name)
        return len(seen)

    values = interleave({name: lambda name=name: arm(name) for name in "abc"}, rounds=4)  # type: ignore[misc]
    assert [sorted(seen[at : at + 3]) for at in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert all(taken == sorted(taken) and len(taken) == 4 for taken in values.values())


def test_every_arm_is_first_equally_often() -> None:
    """In as many rounds as there are arms each arm is first once, and again in the next as many."""
    firsts = [order[0] for order in orders(["a", "b", "c"], 6)]
    assert sorted(firsts[:3]) == sorted(firsts[3:]) == ["a", "b", "c"]


def test_the_order_is_that_of_the_seed() -> None:
    """The same seed gives the same order, another one another."""
    arms = list("abcdefgh")
    assert list(orders(arms, 3, seed=1)) == list(orders(arms, 3, seed=1))
    assert list(orders(arms, 3, seed=1)) != list(orders(arms, 3, seed=2))


def test_nothing_to_measure() -> None:
    """No arms and no rounds are no error."""
    assert interleave({}, 3) == {}
    assert interleave({"a": lambda: 1}, 0) == {"a": []}


def test_what_an_arm_raises_ends_all() -> None:
    """A failure of an arm is the caller's to see."""

    def fail() -> int:
        raise OSError("no such server")

    with pytest.raises(OSError, match="no such server"):
        interleave({"a": fail}, 1)
