"""Links of a given rate, as far as they need no root."""

from __future__ import annotations

import pytest

from benchmarks import links


@pytest.mark.parametrize("bits_per_second", [1_000_000_000, 2_500_000_000, 10_000_000_000])
def test_a_burst_is_short_and_holds_any_packet(bits_per_second: int) -> None:
    """What leaves at once is a few milliseconds' worth, and never less than an uncut segment."""
    burst = links.burst_bytes(bits_per_second)
    assert burst >= 64 * 1024
    assert burst / (bits_per_second / 8) < 0.005


def test_a_machine_without_the_tools_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where links cannot be made, the reason is there to be printed."""
    monkeypatch.setenv("PATH", "/nowhere")
    reason = links.why_unavailable()
    assert reason is not None
    assert "unshare" in reason


def test_a_command_runs_on_its_side() -> None:
    """A side's command is the given one, started in its network by a program that becomes it."""
    side = links.Side("10.0.0.1", "/proc/7/ns/net")
    assert side.command("nginx", "-v") == ["nsenter", "--net=/proc/7/ns/net", "--", "nginx", "-v"]
