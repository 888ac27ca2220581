"""Listings, against what S3 would answer for the same keys, made the slow way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.manifest import File, OriginObject, Twin
from hotstart.wire.pieces import Pieces
from hotstart_proxy.server.s3.listings import ListingQuery, Page, Tree, list_page, parse_token, token

ID = "a" * 64


def file(path: str, *twins: str) -> File:
    """Return a file of one byte."""
    origin = OriginObject("key", '"etag"')
    return File(
        path,
        1,
        ID,
        ID,
        "text/plain",
        origin,
        twins=tuple(Twin(suffix, 2, ID, origin, Pieces((0,), b""), b"") for suffix in twins),
    )


class Given(Tree):
    """A tree that is given, and notes what it is asked."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.asked: list[str] = []

    async def models(self) -> Sequence[str]:
        self.asked.append("models")
        return list({"/".join(key.split("/")[:2]) for key in self.keys})

    async def versions(self, model: str) -> Sequence[str]:
        self.asked.append(model)
        return list({key.split("/")[2] for key in self.keys if key.startswith(model + "/")})

    async def files(self, model: str, version: str) -> tuple[int, Sequence[File]]:
        base = f"{model}/{version}/"
        self.asked.append(base)
        return 1000, [file(key.removeprefix(base)) for key in self.keys if key.startswith(base)]


def names(page: Page) -> list[str]:
    return [item.name for item in page.items]


def listed(tree: Tree, query: ListingQuery) -> Page:
    return asyncio.run(list_page(tree, query))


def expected(keys: Sequence[str], query: ListingQuery) -> list[str]:
    """Return all lines of a listing, from the definition."""
    lines = set()
    for key in keys:
        if key.startswith(query.prefix):
            end = key.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
            lines.add(key if end < 0 else key[: end + len(query.delimiter)])
    return sorted(line for line in lines if line > query.after)


KEYS = (
    "lib-x/m/1/a",
    "lib/m-2/1/a",
    "lib/m/1/a",
    "lib/m/1/a-b",
    "lib/m/1/a/c",
    "lib/m/1/ä",
    "lib/m/1.5/a",
    "lib/m/10/a",
    "org/m/1/a",
)
segments = st.sampled_from(["a", "b", "a-", "a.", "10"])
keys = st.builds("/".join, st.lists(segments, min_size=4, max_size=5))


@given(
    st.lists(keys, max_size=12, unique=True),
    st.one_of(st.just(""), keys, st.text("ab/-.1", max_size=6)),
    st.sampled_from(["", "/", "-", "a/", "1"]),
    st.one_of(st.just(""), keys, st.text("ab/-.1", max_size=6)),
    st.integers(1, 5),
)
def test_a_listing_is_what_s3_would_say(
    there: list[str], prefix: str, delimiter: str, after: str, most: int
) -> None:
    """Any prefix, delimiter and beginning give the same lines as a flat sorted bucket, page by page."""
    tree = Given(*there)
    want = expected(there, ListingQuery(prefix, delimiter, after))
    found: list[str] = []
    position = after
    while True:
        page = listed(tree, ListingQuery(prefix, delimiter, position, most))
        found += names(page)
        assert len(page.items) <= most
        if not page.truncated:
            break
        position = page.items[-1].name
    assert found == want


def test_pages_end_exactly() -> None:
    """A page that holds the last line says that nothing follows, and one of no lines is empty."""
    tree = Given(*KEYS)
    assert names(listed(tree, ListingQuery())) == sorted(KEYS)
    whole = listed(tree, ListingQuery(most=len(KEYS)))
    assert (len(whole.items), whole.truncated) == (len(KEYS), False)
    assert listed(tree, ListingQuery(most=len(KEYS) - 1)).truncated
    assert listed(tree, ListingQuery(most=0)) == Page((), truncated=False)


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (ListingQuery("", "/"), ["models"]),
        (ListingQuery("lib/", "/"), ["models"]),
        (ListingQuery("lib/m/", "/"), ["lib/m"]),
        (ListingQuery("lib/m/1/", "/"), ["lib/m/1/"]),
        (ListingQuery("lib/m/1/a/", ""), ["lib/m/1/"]),
        (ListingQuery("lib/m/1", ""), ["lib/m", "lib/m/1.5/", "lib/m/1/", "lib/m/10/"]),
        (ListingQuery("", "", "lib/m/10/a"), ["models", "lib/m", "lib/m/10/", "org/m", "org/m/1/"]),
    ],
)
def test_no_more_is_asked_than_is_needed(query: ListingQuery, asked: list[str]) -> None:
    """A listing reads only the versions whose keys it may have to show."""
    tree = Given(*KEYS)
    listed(tree, query)
    assert tree.asked == asked


def test_twins_are_listed_by_their_name_alone() -> None:
    """Who lists a version sees its files; who lists a twin's own name sees the twin."""

    class Twinned(Given):
        async def files(self, model: str, version: str) -> tuple[int, Sequence[File]]:
            return 1000, [file("w", ".zsp", ".zst"), file("w.index")]

    tree = Twinned("org/m/1/w")
    assert names(listed(tree, ListingQuery("org/m/1/"))) == ["org/m/1/w", "org/m/1/w.index"]
    assert names(listed(tree, ListingQuery("org/m/1/w"))) == ["org/m/1/w", "org/m/1/w.index"]
    assert names(listed(tree, ListingQuery("org/m/1/w.zst"))) == ["org/m/1/w.zst"]
    assert names(listed(tree, ListingQuery("org/m/1/w.zs"))) == ["org/m/1/w.zsp", "org/m/1/w.zst"]


@given(st.text())
def test_tokens_come_back(after: str) -> None:
    """A continuation token gives back the line after which it goes on."""
    if after.isprintable():
        assert parse_token(token(after)) == after


@pytest.mark.parametrize("text", ["?", "ä", "a", "_w==", "YQ==\n"])
def test_other_tokens_are_none(text: str) -> None:
    """What was never given as a token is refused."""
    assert parse_token(text) is None
