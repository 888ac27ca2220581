"""Times on the wire: RFC 3339 in UTC with milliseconds (``2026-11-24T03:30:14.123Z``); integers in memory."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from .errors import FormatError

__all__ = ["format_timestamp", "parse_timestamp"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?Z", re.ASCII)


def format_timestamp(milliseconds: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 text of fixed width.

    Raises:
        FormatError: a time outside the years 1 to 9999.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError as error:
        raise FormatError("time", f"{milliseconds} ms: expected one within the years 1 to 9999") from error
    # Not strftime: its %Y pads no zeros on some systems.
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_timestamp(text: object, what: str) -> int:
    """Return milliseconds since the epoch; finer digits are cut off.

    Raises:
        FormatError: text is not such a time; what names the structure it stands in.
    """
    if not isinstance(text, str) or not _TIMESTAMP.fullmatch(text):
        raise FormatError(
            what, f"time {str(text)[:40]!r}: expected RFC 3339 in UTC, like 2026-11-24T03:30:14.123Z"
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(what, f"time {text!r}: {error}") from error
    return (moment - _EPOCH) // timedelta(milliseconds=1)
