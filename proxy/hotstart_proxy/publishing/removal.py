"""Unpublishing: the way of a publish backwards.

So a crash at any point leaves a version that is whole and visible, or invisible and cleared by the same
command. The claim goes last: as long as it is there, what is left of the version is nobody's plain files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hotstart.wire.index import Index
from hotstart.wire.layout import begin_key, manifest_key, version_prefix
from hotstart.wire.references import Reference
from hotstart_proxy.origins.base import Origin

from .errors import UnknownVersion, VersionRefused
from .index_swaps import read_index, swap_index
from .jobs import run_bounded
from .uploads import clear_unfinished
from .version_states import exact_version

__all__ = ["Unpublished", "unpublish"]

_DELETES = 16


@dataclass(frozen=True, slots=True)
class Unpublished:
    """What an unpublish took away.

    Attributes:
        was_published: otherwise what was left of an interrupted publish or unpublish.
        objects: how many, manifest and claim included.
        size: bytes of them.
    """

    model: str
    version: str
    was_published: bool
    objects: int
    size: int


async def unpublish(origin: Origin, reference: Reference) -> Unpublished:
    """Remove a version, or what is left of an interrupted publish or unpublish of it.

    Proxies that keep a copy serve it until they look at the index again.

    Args:
        origin: entered.
        reference: must name a version, not an alias of one.

    Raises:
        AliasClash: an alias means it.
        UnknownVersion: there is nothing of it.
        VersionRefused: it is adopted, so not ours to remove, or an alias's name.
        InvalidReference, OriginError, IndexContended
    """
    model, version = exact_version(reference)
    index, _ = await read_index(origin, model)
    if version in index.aliases:
        raise VersionRefused(
            model,
            version,
            f"is an alias: unpublish the version it means, {index.aliases[version]}, by its id",
        )
    objects = await _objects(origin, model, version)
    keys = objects.keys()
    entry = index.entry(version)
    if not keys and entry is None:
        raise UnknownVersion(origin.url, f"version {model}@{version}", _newest_first(index))
    begin, manifest = begin_key(model, version), manifest_key(model, version)
    if entry is None and begin not in keys and manifest not in keys:
        raise VersionRefused(
            model,
            version,
            "is adopted: plain files were put there by other means, so remove them by the same",
        )
    await swap_index(origin, model, lambda current: current.without_version(version))
    await origin.delete(manifest)
    await clear_unfinished(origin, model, version)
    # Looked at once more: somebody may be publishing it right now.
    data = (await _objects(origin, model, version)).keys() - {begin}
    await run_bounded(_DELETES, [partial(origin.delete, key) for key in data])
    await origin.delete(begin)
    return Unpublished(
        model=model,
        version=version,
        was_published=entry is not None or manifest in keys,
        objects=len(keys),
        size=sum(objects.values()),
    )


async def _objects(origin: Origin, model: str, version: str) -> dict[str, int]:
    """Return the sizes of all objects of a version, by key; a console's marker of a folder is none."""
    listing = await origin.list(version_prefix(model, version), recursive=True)
    return {item.key: item.size for item in listing.objects if not item.key.endswith("/")}


def _newest_first(index: Index) -> list[str]:
    return [entry.version for entry in reversed(index.versions)]
