"""How fast bytes arrive."""

from __future__ import annotations

import pytest

from hotstart.engine.meter import Meter

MEBIBYTE = 1024 * 1024


def test_a_link_is_measured_without_its_beginning() -> None:
    """Half of the sample passes before anything counts: a full bucket, connections that come up."""
    meter = Meter(8 * MEBIBYTE)
    meter.arrived(4 * MEBIBYTE, 10.0)
    assert meter.rate(10.0) is None
    for tenth in range(1, 9):
        meter.arrived(MEBIBYTE, 10.0 + tenth / 10)
    assert meter.rate(10.8) == pytest.approx(10 * MEBIBYTE)


def test_a_slow_link_is_measured_in_a_second() -> None:
    """It need not bring the whole sample."""
    meter = Meter(8 * MEBIBYTE)
    for tenth in range(11):
        meter.arrived(1000, 5.0 + tenth / 10)
        assert (meter.rate(5.0 + tenth / 10) is None) == (tenth < 10)
    assert meter.rate(6.0) == pytest.approx(10_000)


def test_nothing_was_measured_of_nothing() -> None:
    """Before the first byte there is no rate."""
    assert Meter(8 * MEBIBYTE).rate(1.0) is None
