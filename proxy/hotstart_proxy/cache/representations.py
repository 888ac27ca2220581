"""Which representations of a version there are, and which of them are kept warm."""

from __future__ import annotations

from collections.abc import Collection

from hotstart.wire.manifest import Manifest, Representation

__all__ = ["kept_kinds", "representations"]


def representations(manifest: Manifest) -> list[Representation]:
    """Return all representations of all files."""
    return [item for file in manifest.files for item in file.representations()]


def kept_kinds(manifest: Manifest, keep: Collection[str]) -> list[Representation]:
    """Return those whose kind keep names: ``"identity"``, or a twin's suffix without its dot."""
    plain = {file.path for file in manifest.files}
    return [
        item
        for item in representations(manifest)
        if ("identity" if item.path in plain else item.path.rpartition(".")[2]) in keep
    ]
