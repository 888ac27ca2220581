"""Sizes, durations and modes as people write them: ``100GiB``, ``10s``, ``0660``."""

from __future__ import annotations

import re

from hotstart.wire.errors import HotstartError

__all__ = ["InvalidQuantity", "parse_duration", "parse_mode", "parse_size"]

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)[ ]?([A-Za-z]*)", re.ASCII)
_MODE = re.compile(r"0?o?([0-7]{3})", re.ASCII)


class InvalidQuantity(HotstartError):
    """A text is not the quantity that was expected.

    Attributes:
        text: what was given.
        expected: what can be written instead.
    """

    def __init__(self, text: str, expected: str) -> None:
        self.text = text
        self.expected = expected
        super().__init__(f"{text!r}: expected {expected}")


def parse_size(text: str) -> int:
    """Return a size in bytes: a number, alone or with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB.

    Raises:
        InvalidQuantity: anything else.
    """
    return int(_scaled(text, _SIZE_UNITS, "a size like 100GiB, 500MB or a number of bytes"))


def parse_duration(text: str) -> float:
    """Return a duration in seconds: a number, alone or with ms, s, m, h or d.

    Raises:
        InvalidQuantity: anything else.
    """
    return _scaled(text, _DURATION_UNITS, "a duration like 10s, 500ms, 5m, 2h, 1d or a number of seconds")


def parse_mode(text: str) -> int:
    """Return the permission bits written as three octal digits, ``0660`` or ``660``.

    Raises:
        InvalidQuantity: anything else.
    """
    match = _MODE.fullmatch(text)
    if match is None:
        raise InvalidQuantity(text, "three octal digits like 0660")
    return int(match[1], 8)


def _scaled(text: str, units: dict[str, int] | dict[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    unit = None if match is None else units.get(match[2].lower())
    if match is None or unit is None:
        raise InvalidQuantity(text, expected)
    number, scale = match[1], unit
    # Whole numbers stay exact: a float has not enough digits for every size.
    return float(number) * scale if "." in number else int(number) * scale
