"""How versions are used: counted since the start, in memory."""

from __future__ import annotations

from hotstart_proxy.cache.uses import HeldVersion, Uses


def test_uses_are_counted_by_version() -> None:
    """Hits count answers from the store, uses all answers; what never happened is None."""
    now = [100.0]
    uses = Uses(lambda: now[0])
    assert uses.view("org/bert", "1", 5, is_pinned=False) == HeldVersion(5, False, 0, None, None)
    uses.read("org/bert", "1", is_hit=False)
    now[0] = 103.5
    uses.filled("org/bert", "1")
    uses.read("org/bert", "2", is_hit=True)
    uses.read("org/bert", "2", is_hit=True)
    now[0] = 104.0
    assert uses.view("org/bert", "1", 5, is_pinned=True) == HeldVersion(5, True, 0, 4.0, 0.5)
    assert uses.view("org/bert", "2", 7, is_pinned=False) == HeldVersion(7, False, 2, 0.5, None)
