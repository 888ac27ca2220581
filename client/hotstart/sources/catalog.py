"""What an origin holds, read without a proxy: models, indexes, versions, and what is passed over and why."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hotstart.wire.adoption import Ignored, Layout
from hotstart.wire.catalog import Catalog, ObjectBytes, Plan, ReadObject, Survey
from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.layout import index_key
from hotstart.wire.manifest import Manifest
from hotstart.wire.opening import Opening
from hotstart.wire.references import DEFAULT_ALIAS, LATEST, MAIN, Reference

from .base import SourceError
from .origin import Origin, perform

__all__ = ["list_models", "list_strays", "open_version", "survey"]

# As many as the index tells the ids of manifests of: enough to see what was meant.
_KNOWN_VERSIONS = 5


def _catalog(origin: Origin, layout: Layout | None) -> Catalog:
    return Catalog(layout or Layout(), origin.endpoint, origin.bucket, origin.prefix)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def list_models(origin: Origin, layout: Layout | None = None) -> tuple[str, ...]:
    """Return the names of all models at an origin.

    Raises:
        SourceError: it cannot be read.
    """
    return perform(origin, _catalog(origin, layout).models(), "listing its models")


def list_strays(origin: Origin, layout: Layout | None = None) -> tuple[Ignored, ...]:
    """Return what lies outside of all models, and why it does not count (errors as list_models)."""
    return perform(origin, _catalog(origin, layout).strays(), "listing what is no model")


def survey(origin: Origin, model: str, layout: Layout | None = None) -> Survey:
    """Return what a model's folder holds, and what is passed over and why (errors as list_models)."""
    return perform(origin, _catalog(origin, layout).survey(model, _now_ms()), f"looking through {model}")


def open_version(origin: Origin, reference: Reference, layout: Layout | None = None) -> Opening:
    """Resolve a reference, over one connection.

    A published version that is named, by its id or an alias, takes two requests, and an adopted one a few;
    the newest of all can only be told by looking into every folder that the index does not name.

    Raises:
        SourceError: no such model or version, or the origin cannot be read.
    """
    doing = f"opening {reference}"
    found = perform(origin, _opening(_catalog(origin, layout), reference, _now_ms()), doing)
    if found.index is None:
        raise SourceError(origin.name, doing, "there is no such model", transient=False)
    if found.entry is None:
        names = [entry.version for entry in found.index.versions[-_KNOWN_VERSIONS:]]
        there_is = ", ".join([*names, *sorted(found.index.aliases)]) or "none yet"
        reason = f"no such version or alias; there is {there_is}"
        raise SourceError(origin.name, doing, reason, transient=False)
    if found.manifest is None:
        reason = f"version {found.entry.version} has no manifest"
        raise SourceError(origin.name, doing, reason, transient=False)
    if found.entry.manifest_id not in (None, sha256_id(found.manifest)):
        # Of a published version this is damage; an adopted folder may have changed since it was looked at.
        raise SourceError(origin.name, doing, "the manifest is not the one in the index", transient=True)
    try:
        return Opening(Manifest.parse(found.manifest), found.manifest)
    except FormatError as error:
        raise SourceError(origin.name, doing, str(error), transient=False) from error


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of a reference: each part None where that or one before it is missing."""

    index: Index | None
    entry: IndexEntry | None
    manifest: bytes | None


def _opening(catalog: Catalog, reference: Reference, now_ms: int) -> Plan[_Found]:
    published = yield from _published_index(reference.model)
    index = published or Index(reference.model)
    version = _meant(index, reference.selector)
    if version is not None:
        # Its own folder tells, also of a version that no index names; no other folder need be looked at.
        entry = index.entry(version)
        manifest = yield from catalog.manifest(reference.model, version, now_ms)
        if manifest is not None or entry is not None:
            return _Found(index, entry or IndexEntry(version, 0), manifest)
    # The newest of all, which an adopted one may be, or nothing: for that the folders must be listed.
    known = yield from catalog.index(reference.model, now_ms)
    if known is None:
        return _Found(None, None, None)
    version = known.index.resolve(reference.selector)
    entry = None if version is None else known.index.entry(version)
    if entry is None:
        return _Found(known.index, None, None)
    manifest = yield from catalog.manifest(reference.model, entry.version, now_ms)
    return _Found(known.index, entry, manifest)


def _published_index(model: str) -> Plan[Index | None]:
    answer = yield ReadObject(index_key(model))
    if not isinstance(answer, ObjectBytes) or answer.data is None:
        return None
    index = Index.parse(answer.data)
    # Another model's index under this key is for the catalog to complain of.
    return index if index.model == model else None


def _meant(index: Index, selector: str | None) -> str | None:
    """Return the version that a selector means, be it in the index or not; None for the newest of all."""
    if selector is None or selector == MAIN:
        selector = DEFAULT_ALIAS if DEFAULT_ALIAS in index.aliases else LATEST
    return None if selector == LATEST else index.aliases.get(selector, selector)
