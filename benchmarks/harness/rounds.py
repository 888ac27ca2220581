"""The order of measurements: arms in turns within every round, so that a noisy machine is noisy for all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

__all__ = ["interleave", "orders"]

T = TypeVar("T")


def orders(arms: list[str], rounds: int, seed: int = 0) -> Iterator[list[str]]:
    """Yield the order of arms for each round.

    Each arm is first about equally often, which a shuffle alone does not give in few rounds: a shuffled list
    is rotated by one place a round, and shuffled again when every arm was first.
    """
    chance = random.Random(seed)
    order = list(arms)
    for number in range(rounds):
        if number % max(1, len(order)) == 0:
            chance.shuffle(order)
        else:
            order.append(order.pop(0))
        yield list(order)


def interleave(arms: Mapping[str, Callable[[], T]], rounds: int, seed: int = 0) -> dict[str, list[T]]:
    """Run every arm once a round, and return what each returned, by arm, in the order of rounds.

    So the values at one place of two lists are a pair: they were measured one after the other.

    Args:
        arms: what to run, by name. What an arm raises ends all.
        rounds: 0 gives empty lists.
        seed: of the order of arms.
    """
    values: dict[str, list[T]] = {name: [] for name in arms}
    for order in orders(list(arms), rounds, seed):
        for name in order:
            values[name].append(arms[name]())
    return values
