"""Moving aliases: any number of one model's in a single swap of its index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hotstart.wire.adoption import Layout
from hotstart.wire.catalog import KnownIndex
from hotstart.wire.index import AliasClash, Index
from hotstart.wire.references import check_alias
from hotstart_proxy.origins.base import Origin
from hotstart_proxy.origins.catalog import catalog_of, perform

from .errors import UnknownVersion, VersionRefused
from .index_swaps import swap_index

__all__ = ["Moved", "move_aliases"]


@dataclass(frozen=True, slots=True)
class Moved:
    """A model's aliases after a move, and what the moved ones meant before (None: nothing)."""

    model: str
    aliases: Mapping[str, str]
    before: Mapping[str, str | None]


async def move_aliases(
    origin: Origin, model: str, moves: Mapping[str, str | None], layout: Layout, now_ms: int
) -> Moved:
    """Make each alias mean its version, or remove it where the version is None; all at once or none.

    Args:
        origin: entered.
        model: two segments.
        moves: at least one.
        layout: where adopted versions lie; an alias may mean one.
        now_ms: milliseconds since the epoch.

    Raises:
        InvalidReference: a name cannot be an alias.
        AliasClash: a version has an alias's name.
        UnknownVersion: there is no such model or version, or no alias to remove.
        VersionRefused: the version is not in the index yet.
        OriginUnfit: the origin ignores conditions on writes.
        OriginError, IndexContended
    """
    for alias in moves:
        check_alias(alias)
    known = await perform(origin, catalog_of(origin, layout).index(model, now_ms))
    if known is None:
        raise UnknownVersion(origin.url, f"model {model}")
    adopted = _adopted_targets(origin, known, moves)
    for alias in moves:
        if known.index.entry(alias) is not None:
            raise AliasClash(model, alias, "is a version already: choose another alias")
    await origin.check_publishable()
    before: dict[str, str | None] = {}

    def change(index: Index) -> Index:
        before.update({alias: index.aliases.get(alias) for alias in moves})
        return _moved(index, moves, adopted)

    index = await swap_index(origin, model, change)
    return Moved(model, dict(index.aliases), before)


def _adopted_targets(origin: Origin, known: KnownIndex, moves: Mapping[str, str | None]) -> frozenset[str]:
    """Return which versions to move to are adopted, and so stand in no index."""
    index, adopted = known.index, set()
    for alias, version in moves.items():
        if version is None:
            if alias not in index.aliases:
                raise UnknownVersion(origin.url, f"alias {alias} of {index.model}", sorted(index.aliases))
            continue
        if index.entry(version) is None:
            newest_first = [entry.version for entry in reversed(index.versions)]
            raise UnknownVersion(origin.url, f"version {index.model}@{version}", newest_first)
        found = known.found.get(version)
        if found is not None and not found.adopted:
            # It may just as well be half unpublished: the index alone knows what an alias can hold on to.
            raise VersionRefused(
                index.model,
                version,
                "is not in the index, since its publish was interrupted at the very end: publish it again",
            )
        if found is not None:
            adopted.add(version)
    return frozenset(adopted)


def _moved(index: Index, moves: Mapping[str, str | None], adopted: frozenset[str]) -> Index:
    changed = index
    for alias, version in moves.items():
        if version is None:
            changed = changed.without_alias(alias)
        elif version not in adopted:
            changed = changed.with_alias(alias, version)
        elif changed.entry(alias) is not None:
            raise AliasClash(index.model, alias, "is a version already: choose another alias")
        elif changed.aliases.get(alias) != version:
            changed = replace(changed, aliases={**changed.aliases, alias: version})
    return changed
