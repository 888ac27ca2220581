"""Which versions of a model are kept, and which blobs may go, in which order.

Kept are the newest versions, those that an alias means, and those that are pinned. Blobs are named by their
content, so versions (and models) share them: a blob may go only when every version that needs it may.
Versions yield oldest first, so a blob is as old as the *newest* kept version that needs it. What a pin holds
never goes, so pins must fit the budget together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from hotstart.wire.index import Index

__all__ = ["KeptVersion", "eviction_order", "kept_versions", "pin_excess", "retired", "victims"]


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that the store keeps, as far as retention goes.

    Attributes:
        model: two segments.
        version: its id.
        published_at: milliseconds since the epoch; what "oldest" means.
        blobs: the content ids of all its representations, cached or not.
        pinned: those of them that a pin holds; empty for a version that is not pinned.
    """

    model: str
    version: str
    published_at: int
    blobs: frozenset[str]
    pinned: frozenset[str] = frozenset()


def kept_versions(index: Index, newest: int, pinned: Collection[str] = ()) -> tuple[str, ...]:
    """Return the versions to keep, oldest first: the newest ones by order, the aliased and the pinned.

    An aliased or pinned version among the newest counts as one of them.

    Args:
        index: of one model.
        newest: how many of the newest versions to keep; 0 keeps the aliased and the pinned alone.
        pinned: versions of the model that are pinned; one that the index does not name keeps nothing.
    """
    recent = {entry.version for entry in index.versions[max(0, len(index.versions) - newest) :]}
    wanted = {*recent, *index.aliases.values(), *pinned}
    return tuple(entry.version for entry in index.versions if entry.version in wanted)


def pin_excess(others: Iterable[Mapping[str, int]], wanted: Mapping[str, int], budget_bytes: int) -> int:
    """Return by how many bytes a pin beside others would exceed the budget; 0 if it fits.

    Args:
        others: sizes in bytes by content id of what each other pin holds, cached or not.
        wanted: the same of the pin in question; blobs that pins share count once.
        budget_bytes: of the store.
    """
    sizes = dict(wanted)
    for other in others:
        sizes.update(other)
    return max(0, sum(sizes.values()) - budget_bytes)


def retired(held: Collection[str], kept: Iterable[KeptVersion]) -> list[str]:
    """Return the held blobs that no kept version needs, sorted."""
    needed: set[str] = set()
    for version in kept:
        needed |= version.blobs
    return sorted(blob for blob in held if blob not in needed)


def eviction_order(held: Collection[str], kept: Iterable[KeptVersion]) -> list[str]:
    """Return the held blobs that may go, in the order in which they go under the budget.

    First what no kept version needs, then by the newest kept version that needs it, oldest first. What is
    pinned is left out.
    """
    newest_use: dict[str, tuple[int, str, str]] = {}
    pinned: set[str] = set()
    for version in kept:
        pinned |= version.pinned
        use = (version.published_at, version.model, version.version)
        for blob in version.blobs:
            newest_use[blob] = max(use, newest_use.get(blob, use))
    unused = (-1, "", "")
    return sorted(
        (blob for blob in held if blob not in pinned), key=lambda blob: (newest_use.get(blob, unused), blob)
    )


def victims(
    held: Mapping[str, int], kept: Iterable[KeptVersion], needed_bytes: int, protected: Set[str]
) -> list[str]:
    """Return which blobs to remove, in order, so that needed_bytes become free.

    Args:
        held: size in bytes of every held blob, by content id.
        kept: all kept versions of all models.
        needed_bytes: how much is to become free; nothing goes for 0 or less.
        protected: blobs that stay, for example those that the fill's own version needs.

    Returns:
        The shortest beginning of the eviction order that is enough; an empty list where even all would not
        be, so that nothing is given up in vain.
    """
    chosen: list[str] = []
    freed = 0
    for blob in eviction_order(held, kept):
        if freed >= needed_bytes:
            break
        if blob in protected:
            continue
        chosen.append(blob)
        freed += held[blob]
    return chosen if freed >= needed_bytes else []
