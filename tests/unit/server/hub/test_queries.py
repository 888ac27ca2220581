"""Parameters of the Hub's API."""

from __future__ import annotations

import pytest

from hotstart_proxy.server.hub.queries import (
    MOST_ENTRIES,
    PathsQuery,
    TreeQuery,
    parse_paths_query,
    parse_tree_query,
    wants_blobs,
)
from hotstart_proxy.server.problems import InvalidQuery

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", TreeQuery()),
        ("recursive=true&expand=false", TreeQuery(recursive=True)),
        ("recursive=True&expand=True", TreeQuery(recursive=True, expand=True)),
        ("recursive=1&limit=5&cursor=a%2Fb", TreeQuery(recursive=True, limit=5, cursor="a/b")),
        ("limit=999999999", TreeQuery(limit=MOST_ENTRIES)),
        ("other=x", TreeQuery()),
    ],
)
def test_tree_queries(query: str, expected: TreeQuery) -> None:
    """Flags are read as clients of either kind write them, and what is not known is ignored."""
    assert parse_tree_query(query) == expected


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=", "limit=²", "&".join("a=b" * 50)]
)
def test_impossible_tree_queries(query: str) -> None:
    """An impossible limit is refused, and so are parameters without end."""
    with pytest.raises(InvalidQuery):
        parse_tree_query(query if query.startswith("limit") else "&".join(["a=b"] * 50))


def test_blobs() -> None:
    """Sizes and digests are given to those who ask."""
    assert wants_blobs("blobs=true")
    assert wants_blobs("securityStatus=True&blobs=True")
    assert not wants_blobs("")
    assert not wants_blobs("blobs=false")


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (FORM, b"paths=a&paths=b%2Fc&expand=true", PathsQuery(("a", "b/c"), expand=True)),
        (f"{FORM}; charset=utf-8", b"paths=a&expand=False", PathsQuery(("a",))),
        ("", b"", PathsQuery(())),
        ("application/json", b'{"paths": ["a"], "expand": true}', PathsQuery(("a",), expand=True)),
        ("application/json", b'{"paths": "a"}', PathsQuery(("a",))),
    ],
)
def test_paths_queries(content_type: str, body: bytes, expected: PathsQuery) -> None:
    """Paths come as a form or as JSON."""
    assert parse_paths_query(content_type, body) == expected


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"\xff"),
        ("application/json", b""),
        ("application/json", b"[]"),
        ("application/json", b"{}"),
        ("application/json", b'{"paths": [1]}'),
        ("application/json", b"[" * 100_000),
        ("multipart/form-data", b"paths=a"),
    ],
)
def test_impossible_bodies(content_type: str, body: bytes) -> None:
    """A body that names no paths is refused, whatever it is."""
    with pytest.raises(InvalidQuery):
        parse_paths_query(content_type, body)
