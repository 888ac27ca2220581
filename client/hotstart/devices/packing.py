"""How small tensors that lie side by side in a file are laid out on a device: few copies, all aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotstart.wire.ranges import ByteRange

__all__ = ["ALIGNMENT", "Packing", "pack"]

# What CUDA's own allocations are aligned to at least, and the widest that any kernel asks for.
ALIGNMENT = 256


class Packing(NamedTuple):
    """A layout.

    Attributes:
        runs: bytes of the file that are copied as they are, and where each run begins in the memory.
        starts: where each tensor begins in the memory, a multiple of 256.
        size: of the memory.
    """

    runs: list[tuple[ByteRange, int]]
    starts: list[int]
    size: int


def pack(places: Sequence[ByteRange]) -> Packing:
    """Lay tensors out.

    Neighbours whose distance is a multiple of 256 bytes stay together in one copy, which is the rule for
    trained weights; where one is not, a new run begins. So nothing is ever shifted in the memory it lies in.

    Args:
        places: of tensors in a file, by rising start, none empty, none overlapping.
    """
    runs: list[tuple[ByteRange, int]] = []
    starts: list[int] = []
    size = 0
    for place in places:
        if runs:
            run, at = runs[-1]
            distance = place.start - run.start
            if place.start == run.stop and distance % ALIGNMENT == 0:
                runs[-1] = (ByteRange(run.start, place.stop), at)
                starts.append(at + distance)
                size = starts[-1] + len(place)
                continue
        start = -(-size // ALIGNMENT) * ALIGNMENT
        runs.append((place, start))
        starts.append(start)
        size = start + len(place)
    return Packing(runs, starts, size)
