"""Planning answers: ranges against the table of RFC 9110, section 14, headers, and when a redirect may be."""

from __future__ import annotations

import pytest

from hotstart.wire.ranges import ByteRange, RangeNotSatisfiable
from hotstart_proxy.server.conditions import http_date
from hotstart_proxy.server.selection import PreconditionFailed, Selected, plan_answer

SIZE = 1000
TAG = '"' + "a" * 64 + '"'
SELECTED = Selected(
    size=SIZE,
    etag=TAG,
    media_type="application/octet-stream",
    cache_control="public, max-age=31536000, immutable",
    last_modified=1_790_000_000,
    dates_identify=True,
    sha256="a" * 64,
)


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-499", 0, 499),
        ("bytes=500-999", 500, 999),
        ("bytes=500-", 500, 999),
        ("bytes=500-5000", 500, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-500", 500, 999),
        ("bytes=-5000", 0, 999),
        ("bytes= 0-1", 0, 1),
        ("BYTES=0-1", 0, 1),
        ("bytes=999-999", 999, 999),
        ("bytes=0-9999999999999999999", 0, 999),
    ],
)
def test_one_range(value: str, first: int, last: int) -> None:
    """A single valid range gets 206 with exactly its bytes."""
    plan = plan_answer("GET", {"range": value}, SELECTED)
    assert plan.status == 206
    assert plan.wanted == ByteRange(first, last + 1)
    assert plan.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert plan.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-1,5-6",
        "bytes=0-1, 3-4",
        "bytes=0-0,0-0,0-0,0-0,0-0,0-0,0-0",
        "items=0-1",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-1",
        "bytes=a-b",
        "bytes=0x0-0x5",
        "bytes=+0-5",
        "bytes 0-5",
        "seconds=1-2",
        "",
    ],
)
def test_a_range_that_is_ignored(value: str) -> None:
    """Several ranges, an unknown unit and a malformed Range get the whole with 200."""
    plan = plan_answer("GET", {"range": value}, SELECTED)
    assert plan.status == 200
    assert plan.wanted == ByteRange(0, SIZE)
    assert "Content-Range" not in plan.headers


@pytest.mark.parametrize("value", ["bytes=1000-", "bytes=1000-2000", "bytes=5000-5001", "bytes=-0"])
def test_a_range_outside(value: str) -> None:
    """A valid range that no byte satisfies is an error that carries the size (416)."""
    with pytest.raises(RangeNotSatisfiable) as caught:
        plan_answer("GET", {"range": value}, SELECTED)
    assert caught.value.size == SIZE


def test_head_ignores_range() -> None:
    """HEAD is answered as a GET of the whole would be, without its bytes."""
    plan = plan_answer("HEAD", {"range": "bytes=0-0"}, SELECTED)
    assert (plan.status, plan.wanted) == (200, None)
    assert plan.headers["Content-Length"] == str(SIZE)
    assert plan_answer("HEAD", {"range": "bytes=5000-"}, SELECTED).status == 200


def test_if_range_that_does_not_hold_gives_the_whole() -> None:
    """A mismatch, or a weak tag, means 200 and not a mixture."""
    for value in ('"other"', f"W/{TAG}", http_date(1)):
        plan = plan_answer("GET", {"range": "bytes=0-0", "if-range": value}, SELECTED)
        assert plan.status == 200
    # An unsatisfiable range that is not to be honoured is no error either.
    assert plan_answer("GET", {"range": "bytes=5000-", "if-range": '"other"'}, SELECTED).status == 200


def test_if_range_that_holds() -> None:
    """The very tag, and exactly the date, honour the range."""
    for value in (TAG, http_date(1_790_000_000)):
        assert plan_answer("GET", {"range": "bytes=0-0", "if-range": value}, SELECTED).status == 206


def test_not_modified_carries_what_a_cache_needs_and_no_more() -> None:
    """304 has validators and Cache-Control; no length, type or range (RFC 9110, 15.4.5)."""
    plan = plan_answer("GET", {"if-none-match": TAG, "range": "bytes=0-0"}, SELECTED)
    assert (plan.status, plan.wanted) == (304, None)
    assert set(plan.headers) == {"ETag", "Cache-Control", "Last-Modified"}


def test_precondition_failed() -> None:
    """If-Match of other bytes is an error that names the tag that is there."""
    with pytest.raises(PreconditionFailed) as caught:
        plan_answer("GET", {"if-match": '"other"', "range": "bytes=5000-"}, SELECTED)
    assert caught.value.etag == TAG


def test_headers_of_a_whole_answer() -> None:
    """All that describes the representation is there."""
    assert plan_answer("GET", {}, SELECTED).headers == {
        "ETag": TAG,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Last-Modified": "Mon, 21 Sep 2026 14:13:20 GMT",
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "Repr-Digest": "sha-256=:qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=:",
        "Content-Length": "1000",
    }


@pytest.mark.parametrize(
    ("method", "headers", "may"),
    [
        ("GET", {}, True),
        ("GET", {"range": "bytes=0-1"}, True),
        ("GET", {"if-none-match": '"other"'}, True),
        ("GET", {"if-match": TAG}, False),
        ("GET", {"if-match": "*"}, False),
        ("GET", {"if-range": TAG, "range": "bytes=0-1"}, False),
        ("GET", {"hotstart-redirect": "no"}, False),
        ("GET", {"hotstart-redirect": " No "}, False),
        ("GET", {"hotstart-redirect": "yes"}, True),
        ("HEAD", {}, False),
    ],
)
def test_when_a_redirect_may_be(method: str, headers: dict[str, str], may: bool) -> None:
    """307 only to a GET without validators that the origin would not know, and never to who says no."""
    assert plan_answer(method, headers, SELECTED).may_redirect is may


def test_an_empty_representation() -> None:
    """Zero bytes are an answer like any other, and no range satisfies them."""
    empty = Selected(size=0, etag=TAG, media_type="text/plain", cache_control="no-store")
    plan = plan_answer("GET", {}, empty)
    assert (plan.status, plan.wanted, plan.headers["Content-Length"]) == (200, ByteRange(0, 0), "0")
    for value in ("bytes=0-0", "bytes=0-", "bytes=-1"):
        with pytest.raises(RangeNotSatisfiable):
            plan_answer("GET", {"range": value}, empty)
