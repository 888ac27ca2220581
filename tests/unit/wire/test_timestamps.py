"""Times on the wire."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.timestamps import format_timestamp, parse_timestamp

PAIRS = {
    "1970-01-01T00:00:00.000Z": 0,
    "1970-01-01T00:00:00.001Z": 1,
    "1969-12-31T23:59:59.999Z": -1,
    "2026-11-24T03:30:14.123Z": 1795491014123,
    "0001-01-01T00:00:00.000Z": -62135596800000,
    "9999-12-31T23:59:59.999Z": 253402300799999,
}


@pytest.mark.parametrize(("text", "milliseconds"), PAIRS.items())
def test_round_trip(text: str, milliseconds: int) -> None:
    """Text of fixed width and milliseconds stand for each other, over all years that either can name."""
    assert parse_timestamp(text, "x") == milliseconds
    assert format_timestamp(milliseconds) == text


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:00.5Z", 500),
        ("1970-01-01T00:00:00.123456Z", 123),
    ],
)
def test_other_writers(text: str, milliseconds: int) -> None:
    """Fewer or more digits of a second are read; finer ones than milliseconds are cut off."""
    assert parse_timestamp(text, "x") == milliseconds


@pytest.mark.parametrize("milliseconds", [253402300800000, -62135596800001, 10**30])
def test_beyond_the_calendar(milliseconds: int) -> None:
    """A time that no calendar has is the documented error, not an overflow."""
    with pytest.raises(FormatError, match="years 1 to 9999"):
        format_timestamp(milliseconds)
