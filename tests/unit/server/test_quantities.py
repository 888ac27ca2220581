"""Sizes, durations and modes as people write them."""

from __future__ import annotations

import pytest

from hotstart_proxy.server.quantities import InvalidQuantity, parse_duration, parse_mode, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("512B", 512),
        ("1KiB", 1024),
        ("100GiB", 100 * 2**30),
        ("100 GiB", 100 * 2**30),
        ("2gib", 2 * 2**30),
        ("1TiB", 2**40),
        ("1.5MiB", 1572864),
        ("5MB", 5_000_000),
        ("999999999999999999", 999999999999999999),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """A size is exact bytes, with binary and decimal units, in any case of letters."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "+1", "1_000", "1e3", "0x10", "1 XB", "1GiB2", "nan", "٣"])
def test_no_size(text: str) -> None:
    """What is no size is refused with an example of one."""
    with pytest.raises(InvalidQuantity, match="expected a size like 100GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is seconds, alone or with a unit."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "inf", "10 parsec", "1h30m"])
def test_no_duration(text: str) -> None:
    """What is no duration is refused with examples."""
    with pytest.raises(InvalidQuantity, match="expected a duration like 10s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "mode"), [("0660", 0o660), ("660", 0o660), ("0o600", 0o600), ("0777", 0o777)]
)
def test_modes(text: str, mode: int) -> None:
    """A mode is three octal digits."""
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "66", "1660", "0680", "rw-rw----", "432432"])
def test_no_mode(text: str) -> None:
    """What is no mode is refused, sticky and set-id bits among it."""
    with pytest.raises(InvalidQuantity, match="three octal digits"):
        parse_mode(text)
