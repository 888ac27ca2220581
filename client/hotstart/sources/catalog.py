"""What an origin holds, read without a proxy: models, indexes, versions, and what is passed over and why."""

from __future__ import annotations

import time

from hotstart.wire.adoption import Ignored, Layout
from hotstart.wire.catalog import Catalog, Survey
from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.manifest import Manifest
from hotstart.wire.opening import Opening
from hotstart.wire.references import Reference

from .base import SourceError
from .origin import Origin, perform

__all__ = ["list_models", "list_strays", "model_index", "open_version", "survey"]


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


def model_index(origin: Origin, model: str, layout: Layout | None = None) -> Index:
    """Return a model's versions and aliases.

    Raises:
        SourceError: there is no such model, or the origin cannot be read.
    """
    doing = f"reading the index of {model}"
    known = perform(origin, _catalog(origin, layout).index(model, _now_ms()), doing)
    if known is None:
        raise SourceError(origin.name, doing, "there is no such model", transient=False)
    return known.index


def survey(origin: Origin, model: str, layout: Layout | None = None) -> Survey:
    """Return what a model's folder holds, and what is passed over and why (errors as list_models)."""
    return perform(origin, _catalog(origin, layout).survey(model, _now_ms()), f"looking through {model}")


def open_version(origin: Origin, reference: Reference, layout: Layout | None = None) -> Opening:
    """Resolve a reference.

    Raises:
        SourceError: no such model or version, or the origin cannot be read.
    """
    index = model_index(origin, reference.model, layout)
    doing = f"opening {reference}"
    version = index.resolve(reference.selector)
    if version is None:
        names = [entry.version for entry in index.versions[-5:]] + sorted(index.aliases)
        reason = f"no such version or alias; there is {', '.join(names) or 'none yet'}"
        raise SourceError(origin.name, doing, reason, transient=False)
    plan = _catalog(origin, layout).manifest(reference.model, version, _now_ms())
    data = perform(origin, plan, doing)
    if data is None:
        raise SourceError(origin.name, doing, f"version {version} has no manifest", transient=False)
    entry = index.entry(version)
    if entry is not None and entry.manifest_id not in (None, sha256_id(data)):
        # Of a published version this is damage; an adopted folder may have changed since the index was read.
        raise SourceError(origin.name, doing, "the manifest is not the one in the index", transient=True)
    try:
        manifest = Manifest.parse(data)
    except FormatError as error:
        raise SourceError(origin.name, doing, str(error), transient=False) from error
    return Opening(manifest, data)
