"""Which versions of a model are kept, and which blobs may go, in which order.

Blobs are named by their content, so versions (and models) share them: a blob may go only when every
version that needs it may. Versions yield oldest first, so a blob is as old as the *newest* kept version that
needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from hotstart.wire.index import Index

__all__ = ["KeptVersion", "eviction_order", "kept_versions", "retired", "victims"]


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that the store keeps, as far as retention goes.

    Attributes:
        model: two segments.
        version: its id.
        published_at: milliseconds since the epoch; what "oldest" means.
        blobs: the content ids of all its representations, cached or not.
    """

    model: str
    version: str
    published_at: int
    blobs: frozenset[str]


def kept_versions(index: Index, newest: int) -> tuple[str, ...]:
    """Return the versions to keep, oldest first: the newest ones by order, and those that an alias means.

    Args:
        index: of one model.
        newest: how many versions to keep besides aliased ones; 0 keeps the aliased alone.
    """
    recent = {entry.version for entry in index.versions[max(0, len(index.versions) - newest) :]}
    aliased = set(index.aliases.values())
    return tuple(
        entry.version for entry in index.versions if entry.version in recent or entry.version in aliased
    )


def retired(held: Collection[str], kept: Iterable[KeptVersion]) -> list[str]:
    """Return the held blobs that no kept version needs, sorted."""
    needed: set[str] = set()
    for version in kept:
        needed |= version.blobs
    return sorted(blob for blob in held if blob not in needed)


def eviction_order(held: Collection[str], kept: Iterable[KeptVersion]) -> list[str]:
    """Return all held blobs in the order in which they go under the budget.

    First what no kept version needs, then by the newest kept version that needs it, oldest first.
    """
    newest_use: dict[str, tuple[int, str, str]] = {}
    for version in kept:
        use = (version.published_at, version.model, version.version)
        for blob in version.blobs:
            newest_use[blob] = max(use, newest_use.get(blob, use))
    unused = (-1, "", "")
    return sorted(held, key=lambda blob: (newest_use.get(blob, unused), blob))


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
