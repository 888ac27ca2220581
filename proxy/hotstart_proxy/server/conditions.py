"""Conditional requests (RFC 9110, section 13), sans-IO: what a request's validators ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum
from functools import lru_cache

__all__ = ["Outcome", "evaluate", "http_date", "if_range_holds", "max_age", "parse_http_date"]

# RFC 9110, 8.8.3: the opaque part may hold anything printable but the quote.
_ENTITY_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\uffff]*")')
_BETWEEN_TAGS = re.compile(r"[ \t,]*")


class Outcome(Enum):
    """What the conditions come to."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "precondition failed"


def evaluate(
    headers: Mapping[str, str], etag: str, last_modified: int | None, *, dates_identify: bool
) -> Outcome:
    """Weigh the conditions of a GET or HEAD in the order of RFC 9110, 13.2.2.

    Args:
        headers: the request's, names in lower case, repeated ones joined by commas.
        etag: the selected representation's, strong, quotes included.
        last_modified: its seconds since the epoch; None where there is no such time.
        dates_identify: the resource never has two representations with one Last-Modified, nor ever an older
            one than before. False for aliases, which move back as well as forth: If-Modified-Since is
            ignored there.
    """
    if_match = headers.get("if-match")
    if if_match is not None:
        if not _matches(if_match, etag, weak=False):
            return Outcome.FAILED
    elif _is_later(last_modified, parse_http_date(headers.get("if-unmodified-since"))):
        return Outcome.FAILED
    if_none_match = headers.get("if-none-match")
    if if_none_match is not None:
        return Outcome.NOT_MODIFIED if _matches(if_none_match, etag, weak=True) else Outcome.PROCEED
    since = parse_http_date(headers.get("if-modified-since"))
    if dates_identify and since is not None and last_modified is not None and last_modified <= since:
        return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


def if_range_holds(value: str | None, etag: str, last_modified: int | None, *, dates_identify: bool) -> bool:
    """Tell whether Range is to be honoured: no If-Range, or one that is strongly the same (13.1.5)."""
    if value is None:
        return True
    value = value.strip(" \t")
    if value.startswith(('"', "W/")):
        return value == etag
    return dates_identify and last_modified is not None and parse_http_date(value) == last_modified


def _is_later(last_modified: int | None, limit: int | None) -> bool:
    return last_modified is not None and limit is not None and last_modified > limit


def _matches(value: str, etag: str, *, weak: bool) -> bool:
    if value.strip(" \t") == "*":
        return True
    matched = False
    position = _skip_separators(value, 0)
    while position < len(value):
        tag = _ENTITY_TAG.match(value, position)
        if tag is None:
            # A list that is malformed anywhere says nothing for certain.
            return False
        matched = matched or (tag[2] == etag and (weak or tag[1] is None))
        position = _skip_separators(value, tag.end())
    return matched


def _skip_separators(value: str, position: int) -> int:
    match = _BETWEEN_TAGS.match(value, position)
    assert match is not None
    return match.end()


def max_age(cache_control: str) -> int | None:
    """Return the seconds that a request's ``Cache-Control`` allows an answer to be old (RFC 9111, 5.2.1).

    ``no-cache`` is 0; None where it says nothing that can be read.
    """
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip(" \t").partition("=")
        if name == "no-cache":
            return 0
        if name == "max-age":
            value = value.strip('"')
            return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    return None


def parse_http_date(value: str | None) -> int | None:
    """Return seconds since the epoch of an HTTP date in any of its three forms; None for all else."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value.strip(" \t"))
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@lru_cache(maxsize=256)
def http_date(seconds: int) -> str:
    """Return seconds since the epoch as an IMF-fixdate (RFC 9110, 5.6.7)."""
    return formatdate(seconds, usegmt=True)
