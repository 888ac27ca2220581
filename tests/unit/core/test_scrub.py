"""Scrubbing: the order, the pace, and whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.errors import FormatError
from hotstart_proxy.core.scrub import BEAT_SECONDS, Pace, ScrubRecord, scrub_order, seconds_to_wait

DAY = 86400.0
NOW = 1_800_000_000_000


def running(by: str, silent_seconds: float) -> ScrubRecord:
    return ScrubRecord(by, NOW - int(silent_seconds * 1000), "", None)


def finished(seconds_ago: float) -> ScrubRecord:
    at = NOW - int(seconds_ago * 1000)
    return ScrubRecord("other", at, "", at)


def wait(record: ScrubRecord | None, started_seconds_ago: float = 100) -> float:
    return seconds_to_wait(record, "me", NOW - int(started_seconds_ago * 1000), NOW, DAY)


def test_the_first_begins_at_once() -> None:
    """Where nobody has scrubbed, it is anybody's turn."""
    assert wait(None) == 0


def test_one_does_it_for_all() -> None:
    """While another process is at it, this one waits until that one counts as gone."""
    assert wait(running("other", 5)) == 3 * BEAT_SECONDS - 5
    assert wait(running("other", 3 * BEAT_SECONDS)) == 0
    assert wait(running("me", 5)) == 0


def test_a_finished_scrub_counts_for_all_that_ran_by_then() -> None:
    """After a scrub the next is due an interval later; a process that came since begins anew."""
    assert wait(finished(50)) == DAY - 50
    assert wait(finished(DAY + 1), started_seconds_ago=DAY + 10) == 0
    assert wait(finished(200), started_seconds_ago=100) == 0


def test_a_clock_that_was_set_back() -> None:
    """A record from the future holds nobody up."""
    assert wait(running("other", -5)) == 0
    assert wait(finished(-5)) == 0


@given(st.sets(st.text("abcdef", min_size=1, max_size=3)), st.text("abcdef", max_size=3))
def test_every_blob_has_its_turn(held: set[str], after: str) -> None:
    """From wherever one goes on, each blob is read once, the next after that place first."""
    order = scrub_order(held, after)
    assert sorted(order) == sorted(held)
    later = [blob for blob in order if blob > after]
    assert order[: len(later)] == sorted(later)


def test_pauses() -> None:
    """The slower of the two bounds, rate and share of the time, decides."""
    pace = Pace(100.0, 0.25)
    assert pace.pause_seconds(100, 0.0) == 1.0
    assert pace.pause_seconds(100, 0.2) == pytest.approx(0.8)
    assert pace.pause_seconds(100, 1.0) == 3.0
    assert pace.pause_seconds(0, 0.0) == 0.0


def test_records_are_read_back() -> None:
    """A record survives the store; anything else is the one documented error."""
    record = ScrubRecord("me", NOW, "ab" * 32, None)
    assert ScrubRecord.parse(record.dump()) == record
    assert ScrubRecord.parse(finished(1).dump()) == finished(1)
    for data in (b"", b"{}", b'{"format":2}', b"\xff"):
        with pytest.raises(FormatError):
            ScrubRecord.parse(data)
