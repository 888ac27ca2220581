"""The Hub's documents about a version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart_proxy.cache.answers import Resolved
from hotstart_proxy.server.hub.commits import commit_id, commit_of
from hotstart_proxy.server.hub.documents import (
    commits_document,
    model_document,
    paths_document,
    tree_page,
)

SHA256 = "ab" * 32
PUBLISHED_AT = 1_700_000_000_123


def file(path: str, *, adopted: bool = False) -> File:
    """A file of 1234 bytes."""
    origin = OriginObject(f"org/bert/7/{path}", '"e"')
    return File(path, 1234, None if adopted else SHA256, SHA256, "application/json", origin)


def resolved(*files: File, manifest_id: str = "cd" * 32) -> Resolved:
    """Version 7 of org/bert."""
    manifest = Manifest("org/bert", "7", PUBLISHED_AT, files)
    return Resolved(manifest, b"", manifest_id, PUBLISHED_AT, by_alias=False, kept=True)


VERSION = resolved(file("a.json"), file("b/c/d.json"), file("b/e.json"), file("z.json", adopted=True))


def paths(entries: list[dict[str, object]]) -> list[object]:
    return [entry["path"] for entry in entries]


def page(folder: str = "", *, recursive: bool = False, limit: int = 100, cursor: str = "") -> list[object]:
    """The paths of one page."""
    found = tree_page(VERSION, folder, recursive=recursive, expand=False, limit=limit, cursor=cursor)
    assert found is not None
    return paths(found.entries)


def test_commit_ids() -> None:
    """An id is 40 hex digits, and another for another model, version or manifest."""
    ids = {
        commit_id("org/bert", "7", "cd" * 32),
        commit_id("org/bert", "8", "cd" * 32),
        commit_id("org/bart", "7", "cd" * 32),
        commit_id("org/bert", "7", "ce" * 32),
    }
    assert len(ids) == 4
    assert all(len(found) == 40 and int(found, 16) >= 0 for found in ids)
    # What clients have cached is found by it again: it never changes.
    assert commit_of(VERSION) == "60cd9c240d78d2336de144f5628381c78af62bb7"


def test_model() -> None:
    """A model is described as of one version, sizes and digests for those who ask."""
    document = model_document(VERSION, blobs=False)
    assert (document["id"], document["sha"]) == ("org/bert", commit_of(VERSION))
    assert document["lastModified"] == "2023-11-14T22:13:20.123Z"
    siblings = document["siblings"]
    assert siblings == [{"rfilename": path} for path in ("a.json", "b/c/d.json", "b/e.json", "z.json")]
    with_blobs = model_document(VERSION, blobs=True)["siblings"]
    assert isinstance(with_blobs, list)
    assert with_blobs[0]["size"] == 1234
    assert with_blobs[0]["lfs"] == {"sha256": SHA256, "size": 1234, "pointerSize": 129}


def test_a_folder() -> None:
    """A listing has what lies in the folder itself, or all below it, folders among it."""
    assert page() == ["a.json", "b", "z.json"]
    assert page(recursive=True) == ["a.json", "b", "b/c", "b/c/d.json", "b/e.json", "z.json"]
    assert page("b") == ["b/c", "b/e.json"]
    assert page("b/c", recursive=True) == ["b/c/d.json"]


@pytest.mark.parametrize("folder", ["nope", "a.json", "b/", "/b", "a"])
def test_what_is_no_folder(folder: str) -> None:
    """A folder that is not there, a file among them, is none."""
    assert tree_page(VERSION, folder, recursive=True, expand=False, limit=9, cursor="") is None


def test_an_empty_version() -> None:
    """The root is always there."""
    found = tree_page(resolved(), "", recursive=True, expand=False, limit=9, cursor="")
    assert found is not None
    assert found.entries == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
def test_pages(limit: int) -> None:
    """Pages one after the other are the whole, each entry once, and the last says that it is."""
    seen: list[object] = []
    cursor: str | None = ""
    while cursor is not None:
        found = tree_page(VERSION, "", recursive=True, expand=False, limit=limit, cursor=cursor)
        assert found is not None
        assert 1 <= len(found.entries) <= limit
        seen += paths(found.entries)
        cursor = found.cursor
    assert seen == page(recursive=True)


def test_entries() -> None:
    """A published file is one of LFS, by its sha256; an adopted one, whose nobody knows, is not."""
    first, folder, *_ = paths_document(VERSION, ["a.json", "b"], expand=False)
    assert first["type"] == "file"
    assert first["lfs"] == {"oid": SHA256, "size": 1234, "pointerSize": 129}
    assert (folder["type"], folder["size"]) == ("directory", 0)
    (adopted,) = paths_document(VERSION, ["z.json"], expand=False)
    assert "lfs" not in adopted
    assert adopted["size"] == 1234


def test_expanded_entries() -> None:
    """Whoever asks is told each entry's commit, which is the version's."""
    commit = {"id": commit_of(VERSION), "title": "Version 7", "date": "2023-11-14T22:13:20.123Z"}
    assert all(
        entry["lastCommit"] == commit for entry in paths_document(VERSION, ["a.json", "b"], expand=True)
    )
    assert commits_document(VERSION) == [{**commit, "message": "", "authors": []}]


def test_paths_that_are_not_there_are_left_out() -> None:
    """Of the paths that are asked about, those that exist are described, each once."""
    assert paths(paths_document(VERSION, ["no", "b/c", "a.json", "b/c"], expand=False)) == ["b/c", "a.json"]


def test_nothing_speaks_of_xet() -> None:
    """No document has a hash by which a client would fetch from elsewhere."""
    whole = tree_page(VERSION, "", recursive=True, expand=True, limit=100, cursor="")
    assert "xet" not in repr((model_document(VERSION, blobs=True), whole)).lower()


def test_ids_of_folders_and_blobs() -> None:
    """Equal files have equal ids, and folders of two versions never do."""
    first, second = (entry["oid"] for entry in paths_document(VERSION, ["a.json", "b/e.json"], expand=False))
    assert first == second
    (folder,) = paths_document(VERSION, ["b"], expand=False)
    (other,) = paths_document(replace(VERSION, manifest_id="ef" * 32), ["b"], expand=False)
    assert folder["oid"] != other["oid"]
