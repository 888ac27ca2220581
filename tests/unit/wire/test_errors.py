"""The errors of the wire package."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import FormatError, HotstartError, IntegrityError, InvalidReference, quoted
from hotstart.wire.ranges import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidReference("a@", "because"), "'a@' is not a valid reference: because"),
        (FormatError("manifest", "because"), "malformed manifest: because"),
        (
            IntegrityError("piece 3 of x", "crc32 00000001", "00000002"),
            "piece 3 of x is damaged: expected crc32 00000001, found 00000002",
        ),
        (RangeNotSatisfiable("bytes=9-", 5), "malformed Range: 'bytes=9-' lies outside the 5 bytes"),
    ],
)
def test_messages(error: HotstartError, message: str) -> None:
    """Every error has the one root, and says what was found."""
    assert isinstance(error, HotstartError)
    assert str(error) == message


def test_quoted() -> None:
    """What is quoted fits a log line, and cannot break one."""
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'"
    assert len(quoted("x" * 10**6)) < 130
    assert quoted("x" * 120) == repr("x" * 120)
