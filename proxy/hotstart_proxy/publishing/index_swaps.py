"""Moving a model's index by compare-and-swap: read, change, write if nobody else did; else again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.layout import index_key
from hotstart_proxy.origins.base import AlreadyExists, ObjectChanged, Origin

from .errors import IndexContended

__all__ = ["read_index", "swap_index"]

# Of N writers at least one gets through each round, so this many outlasts any crowd that is real.
_ATTEMPTS = 40
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


async def read_index(origin: Origin, model: str) -> tuple[Index, str | None]:
    """Return the index as it stands at the origin, and its ETag; an empty one and None where there is none.

    Raises:
        FormatError: what lies there is no index, or another model's.
        OriginError
    """
    found = await origin.read(index_key(model))
    if found is None or found.data is None:
        return Index(model), None
    # What a newer hotstart has put there must outlive a swap by this one.
    index = Index.parse(found.data, keep_others=True)
    if index.model != model:
        raise FormatError(
            "index", f"{index_key(model)} is that of {index.model}: was the folder copied or renamed by hand?"
        )
    return index, found.etag


async def swap_index(
    origin: Origin,
    model: str,
    change: Callable[[Index], Index],
    jitter: Callable[[], float] = random.random,
) -> Index:
    """Change the index atomically, and return it as it is then.

    Args:
        origin: where it lies.
        model: whose index.
        change: is given the index and returns it changed, or itself where there is nothing to do; it is
            called again for each attempt, so it must not remember. What it raises ends the swap.
        jitter: uniform in [0, 1): pauses are random, so that writers who met do not meet again.

    Raises:
        IndexContended: others were faster each time.
        OriginError
    """
    for attempt in range(_ATTEMPTS):
        index, etag = await read_index(origin, model)
        changed = change(index)
        if changed is index:
            return index
        # One swap is one step, however many changes it makes.
        changed = replace(changed, serial=index.serial + 1)
        try:
            await origin.put(
                index_key(model),
                changed.dump(),
                create_only=etag is None,
                if_match=etag,
                media_type="application/json",
            )
        except (AlreadyExists, ObjectChanged):
            # Also after a write that arrived though its answer did not: the next read shows it.
            pause = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause * jitter())
        else:
            return changed
    raise IndexContended(model, _ATTEMPTS)
