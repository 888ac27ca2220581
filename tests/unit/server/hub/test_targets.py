"""What paths below /hub name."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import InvalidReference
from hotstart_proxy.cache.answers import NotFound
from hotstart_proxy.server.hub.targets import Target, find_target, is_commit, selector_of
from hotstart_proxy.server.problems import NoSuchRoute
from hotstart_proxy.server.routes import RouteName

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/org/bert/resolve/7/x.json", Target(RouteName.HUB_FILE, "org/bert", "7", "x.json")),
        ("/bert/resolve/main/a/b.json", Target(RouteName.HUB_FILE, "library/bert", "main", "a/b.json")),
        ("/org/bert/resolve/7/gr%C3%B6%C3%9Fe%20x", Target(RouteName.HUB_FILE, "org/bert", "7", "größe x")),
        ("/org/bert/resolve/refs%2Fpr%2F1/x", Target(RouteName.HUB_FILE, "org/bert", "refs/pr/1", "x")),
        ("/org/resolve/resolve/7/x", Target(RouteName.HUB_FILE, "org/resolve", "7", "x")),
        ("/bert/resolve/resolve/x", Target(RouteName.HUB_FILE, "library/bert", "resolve", "x")),
        ("/api/models/bert", Target(RouteName.HUB_MODEL, "library/bert")),
        ("/api/models/org/bert", Target(RouteName.HUB_MODEL, "org/bert")),
        ("/api/models/org/tree", Target(RouteName.HUB_MODEL, "org/tree")),
        ("/api/models/org/bert/revision/7", Target(RouteName.HUB_REVISION, "org/bert", "7")),
        ("/api/models/bert/revision/v1%2E0", Target(RouteName.HUB_REVISION, "library/bert", "v1.0")),
        ("/api/models/org/bert/tree/7", Target(RouteName.HUB_TREE, "org/bert", "7")),
        ("/api/models/org/bert/tree/7/a/b", Target(RouteName.HUB_TREE, "org/bert", "7", "a/b")),
        ("/api/models/org/bert/tree/7/a%2Fb", Target(RouteName.HUB_TREE, "org/bert", "7", "a/b")),
        ("/api/models/org/bert/paths-info/7", Target(RouteName.HUB_PATHS, "org/bert", "7")),
        ("/api/models/org/bert/commits/7", Target(RouteName.HUB_COMMITS, "org/bert", "7")),
    ],
)
def test_targets(path: str, target: Target) -> None:
    """Ids of one segment and of two, revisions and folders with escaped slashes are found."""
    assert find_target(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/org/bert",
        "/org/bert/resolve/7",
        "/org/bert/blob/7/x",
        "/api",
        "/api/whoami-v2",
        "/api/models/org/bert/refs",
        "/api/models/org/bert/revision/7/x",
        "/api/models/org/bert/paths-info/7/x",
        "/api/models/org/bert/tree",
        "/a/b/c/resolve/7/x",
    ],
)
def test_no_route(path: str) -> None:
    """What is not of the read protocol is said to be not served."""
    with pytest.raises(NoSuchRoute):
        find_target(path)


@pytest.mark.parametrize(
    "path",
    [
        "/_org/bert/resolve/7/x",
        "/api/models/",
        "/api/models/org/%C3%A9",
        "/api/models/org/../revision/7",
        "/api/models/org@7/bert",
        "/datasets/org/data/resolve/main/x",
        "/api/datasets/org/data/revision/main",
        "/api/spaces/org/space",
    ],
)
def test_what_can_be_no_model_is_not_found(path: str) -> None:
    """Names that no model can have, and datasets and spaces, are models that are not there."""
    with pytest.raises(NotFound) as caught:
        find_target(path)
    assert caught.value.what == "model"


@pytest.mark.parametrize(
    "path",
    [
        "/org/bert/resolve/7/a%2Fb",
        "/org/bert/resolve/7/a%00b",
        "/org/bert/resolve/7/%ff",
        "/org/bert/resolve/7%/x",
        "/org%2Fbert/resolve/7/x",
        "/api/models/org%2Fbert",
        "/api/models/org/bert/tree/7/%00",
    ],
)
def test_wrong_escapes(path: str) -> None:
    """An escaped slash is allowed where clients write it, and nowhere else; NUL and bad UTF-8 never."""
    with pytest.raises(InvalidReference):
        find_target(path)


@pytest.mark.parametrize(
    ("revision", "selector"),
    [
        (None, None),
        ("main", "main"),
        ("7", "7"),
        ("refs/heads/prod", "prod"),
        ("refs/tags/7", "7"),
    ],
)
def test_selectors(revision: str | None, selector: str | None) -> None:
    """Versions and aliases are meant by their short names and by git's full ones."""
    assert selector_of(Target(RouteName.HUB_MODEL, "org/bert", revision)) == selector


@pytest.mark.parametrize("revision", ["", "refs/pr/1", "refs/convert/parquet", "..", "a@b", "refs/heads/"])
def test_other_revisions_are_not_found(revision: str) -> None:
    """A revision that no model of ours can have is one that is not there."""
    with pytest.raises(NotFound) as caught:
        selector_of(Target(RouteName.HUB_MODEL, "org/bert", revision))
    assert (caught.value.what, caught.value.name) == ("version", f"org/bert@{revision}")


def test_commits_are_told_from_names() -> None:
    """Forty hex digits are a commit, and nothing else is."""
    assert is_commit(COMMIT)
    assert is_commit(COMMIT.upper())
    assert not any(map(is_commit, (None, "", "7", COMMIT[:-1], COMMIT + "0", "g" * 40)))
