"""The Hub's JSON documents about a version, made of its manifest, sans-IO.

All files are given as stored by Git LFS, since that is how the Hub says a sha256; those of adopted versions,
which nobody knows, are not. Nothing speaks of Xet: clients would fetch the bytes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hotstart.wire.manifest import File, Manifest
from hotstart.wire.timestamps import format_timestamp
from hotstart_proxy.cache.answers import Resolved

from .commits import commit_of, object_id

__all__ = ["Page", "commits_document", "model_document", "paths_document", "tree_page"]

# What Git LFS keeps in a file's place; the Hub says its length beside the file's.
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"

Entry = dict[str, object]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing.

    Attributes:
        entries: in the order of their paths.
        cursor: where the next page begins; None for the last.
    """

    entries: list[Entry]
    cursor: str | None


def model_document(resolved: Resolved, *, blobs: bool) -> Entry:
    """Describe a model as of one version.

    Args:
        resolved: the version.
        blobs: with size and digests of every file.
    """
    manifest = resolved.manifest
    time = format_timestamp(resolved.published_at)
    return {
        "_id": object_id("model", manifest.model)[:24],
        "id": manifest.model,
        "modelId": manifest.model,
        "author": manifest.model.partition("/")[0],
        "sha": commit_of(resolved),
        "lastModified": time,
        "createdAt": time,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(file, blobs=blobs) for file in manifest.files],
        "usedStorage": sum(file.size for file in manifest.files),
    }


def commits_document(resolved: Resolved) -> list[Entry]:
    """Give a version's history as one commit: what came before it are other versions, not its past."""
    return [{**_commit(resolved), "message": "", "authors": []}]


def tree_page(
    resolved: Resolved, folder: str, *, recursive: bool, expand: bool, limit: int, cursor: str
) -> Page | None:
    """List a folder; None if there is none of that path.

    Args:
        resolved: the version.
        folder: empty for the root, which is always there.
        recursive: with all below it.
        expand: with the commit of each entry.
        limit: entries at most, from 1.
        cursor: as the page before gave it; empty for the first.
    """
    prefix = f"{folder}/" if folder else ""
    found = {
        path: file
        for path, file in _entries(resolved.manifest)
        if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
    }
    if folder and not found:
        return None
    paths = sorted(path for path in found if path > cursor)
    entries = [_entry(resolved, path, found[path], expand=expand) for path in paths[:limit]]
    return Page(entries, paths[limit - 1] if len(paths) > limit else None)


def paths_document(resolved: Resolved, paths: Iterable[str], *, expand: bool) -> list[Entry]:
    """Describe those of the paths that are there, each once."""
    there = dict(_entries(resolved.manifest))
    return [
        _entry(resolved, path, there[path], expand=expand) for path in dict.fromkeys(paths) if path in there
    ]


def _entries(manifest: Manifest) -> Iterator[tuple[str, File | None]]:
    """Yield every file, and every folder once, with None in the file's place."""
    folders: set[str] = set()
    for file in manifest.files:
        yield file.path, file
        folder = file.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            yield folder, None
            folder = folder.rpartition("/")[0]


def _entry(resolved: Resolved, path: str, file: File | None, *, expand: bool) -> Entry:
    last = {"lastCommit": _commit(resolved)} if expand else {}
    if file is None:
        folder_id = object_id("folder", commit_of(resolved), path)
        return {"type": "directory", "oid": folder_id, "size": 0, "path": path, **last}
    lfs = {} if file.sha256 is None else {"lfs": {"oid": file.sha256, **_lfs_sizes(file, file.sha256)}}
    return {"type": "file", "oid": _blob_id(file), "size": file.size, **lfs, "path": path, **last}


def _sibling(file: File, *, blobs: bool) -> Entry:
    if not blobs:
        return {"rfilename": file.path}
    lfs = {} if file.sha256 is None else {"lfs": {"sha256": file.sha256, **_lfs_sizes(file, file.sha256)}}
    return {"rfilename": file.path, "size": file.size, "blobId": _blob_id(file), **lfs}


def _lfs_sizes(file: File, sha256: str) -> dict[str, int]:
    pointer = _POINTER.format(sha256=sha256, size=file.size)
    return {"size": file.size, "pointerSize": len(pointer)}


def _blob_id(file: File) -> str:
    return object_id("blob", file.id)


def _commit(resolved: Resolved) -> Entry:
    return {
        "id": commit_of(resolved),
        "title": f"Version {resolved.manifest.version}",
        "date": format_timestamp(resolved.published_at),
    }
