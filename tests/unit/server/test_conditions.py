"""Conditional requests, against the tables of RFC 9110, section 13."""

from __future__ import annotations

import pytest

from hotstart_proxy.server.conditions import (
    Outcome,
    evaluate,
    http_date,
    if_range_holds,
    max_age,
    parse_http_date,
)

TAG = '"' + "a" * 64 + '"'
OTHER = '"' + "b" * 64 + '"'
NOW = 1_790_000_000
PROCEED, NOT_MODIFIED, FAILED = Outcome.PROCEED, Outcome.NOT_MODIFIED, Outcome.FAILED


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ({}, PROCEED),
        # If-Match: strong comparison.
        ({"if-match": TAG}, PROCEED),
        ({"if-match": "*"}, PROCEED),
        ({"if-match": f"{OTHER}, {TAG}"}, PROCEED),
        ({"if-match": f"{OTHER} ,, {TAG},"}, PROCEED),
        ({"if-match": OTHER}, FAILED),
        ({"if-match": f"W/{TAG}"}, FAILED),
        ({"if-match": TAG.strip('"')}, FAILED),
        ({"if-match": f"{TAG}, garbage"}, FAILED),
        ({"if-match": ""}, FAILED),
        # If-Unmodified-Since: only without If-Match.
        ({"if-unmodified-since": http_date(NOW)}, PROCEED),
        ({"if-unmodified-since": http_date(NOW - 1)}, FAILED),
        ({"if-unmodified-since": "yesterday"}, PROCEED),
        ({"if-match": TAG, "if-unmodified-since": http_date(NOW - 1)}, PROCEED),
        # If-None-Match: weak comparison, and wins over If-Modified-Since.
        ({"if-none-match": TAG}, NOT_MODIFIED),
        ({"if-none-match": f"W/{TAG}"}, NOT_MODIFIED),
        ({"if-none-match": "*"}, NOT_MODIFIED),
        ({"if-none-match": f'"x,y", W/{TAG}'}, NOT_MODIFIED),
        ({"if-none-match": OTHER}, PROCEED),
        ({"if-none-match": OTHER, "if-modified-since": http_date(NOW)}, PROCEED),
        ({"if-none-match": TAG, "range": "bytes=0-0"}, NOT_MODIFIED),
        # If-Modified-Since.
        ({"if-modified-since": http_date(NOW)}, NOT_MODIFIED),
        ({"if-modified-since": http_date(NOW + 1)}, NOT_MODIFIED),
        ({"if-modified-since": http_date(NOW - 1)}, PROCEED),
        ({"if-modified-since": "not a date"}, PROCEED),
        # The order of 13.2.2.
        ({"if-match": OTHER, "if-none-match": TAG}, FAILED),
        ({"if-match": TAG, "if-none-match": TAG}, NOT_MODIFIED),
        ({"if-unmodified-since": http_date(NOW - 1), "if-none-match": TAG}, FAILED),
    ],
)
def test_conditions(headers: dict[str, str], outcome: Outcome) -> None:
    """Every condition means what RFC 9110 says, in its order of precedence."""
    assert evaluate(headers, TAG, NOW, dates_identify=True) is outcome


def test_an_alias_that_moved_back_is_not_taken_for_unmodified() -> None:
    """Where an older version may follow a newer one, If-Modified-Since never gives 304."""
    headers = {"if-modified-since": http_date(NOW + 1000)}
    assert evaluate(headers, TAG, NOW, dates_identify=False) is PROCEED


def test_dates_mean_nothing_where_there_is_none() -> None:
    """A representation without a time fails no condition on time, and is never unmodified."""
    for name in ("if-modified-since", "if-unmodified-since"):
        assert evaluate({name: http_date(NOW)}, TAG, None, dates_identify=True) is PROCEED


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (None, True),
        (TAG, True),
        (f" {TAG}\t", True),
        (f"W/{TAG}", False),
        (OTHER, False),
        ("*", False),
        (f"{TAG}, {OTHER}", False),
        (http_date(NOW), True),
        (http_date(NOW + 1), False),
        (http_date(NOW - 1), False),
        ("garbage", False),
        ("", False),
    ],
)
def test_if_range(value: str | None, holds: bool) -> None:
    """If-Range compares strongly: the very tag, or exactly the date; anything else gets the whole."""
    assert if_range_holds(value, TAG, NOW, dates_identify=True) is holds


def test_if_range_by_date_needs_dates_that_identify() -> None:
    """Under an alias two versions may share a second, so a date there never joins two halves."""
    assert not if_range_holds(http_date(NOW), TAG, NOW, dates_identify=False)
    assert if_range_holds(TAG, TAG, NOW, dates_identify=False)


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_the_three_forms_of_dates(text: str) -> None:
    """IMF-fixdate and both obsolete forms are understood."""
    assert parse_http_date(text) == 784111777


@pytest.mark.parametrize(
    "text", ["", "x", "99", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT"]
)
def test_no_dates(text: str) -> None:
    """Anything else is no date, and no error."""
    assert parse_http_date(text) is None


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", None),
        ("max-age=1", 1),
        ('no-store, Max-Age="30"', 30),
        ("no-cache", 0),
        ("max-stale=5", None),
        ("max-age", None),
        ("max-age=-1", None),
        ("max-age=1_0", None),
        ("max-age=" + "9" * 400, None),
        ("x" * 8000, None),
    ],
)
def test_how_old_an_answer_may_be(cache_control: str, seconds: int | None) -> None:
    """A request says how old an answer may be; what cannot be read says nothing."""
    assert max_age(cache_control) == seconds


def test_hostile_lists_of_tags() -> None:
    """A header as long as the parser lets through is read once, and a malformed one matches nothing."""
    for hostile in (", " * 4000 + "x", ' \t"' * 2700, '"",' * 2700 + "W/", "W/" * 4000):
        assert evaluate({"if-none-match": hostile}, TAG, NOW, dates_identify=True) is PROCEED
    assert evaluate({"if-none-match": '"",' * 2000 + TAG}, TAG, NOW, dates_identify=True) is NOT_MODIFIED
