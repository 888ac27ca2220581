"""The ring of slots."""

from __future__ import annotations

from hotstart.devices.ring import Ring, Slot

SLOT = 4096


class ByHand:
    """An event that is done when the test says so."""

    def __init__(self) -> None:
        self.done = False

    def is_done(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.done = True


def taken(ring: Ring) -> Slot:
    slot = ring.take()
    assert slot is not None
    return slot


def test_slots_are_parts_of_one_memory() -> None:
    """Slots lie side by side in one allocation, and a write to one is seen in it."""
    ring = Ring(2, SLOT)
    slots = [taken(ring), taken(ring)]
    assert ring.take() is None
    slots[1].memory[:3] = b"abc"
    start = slots[1].start
    assert bytes(ring.memory[start : start + 3]) == b"abc"
    assert sorted(slot.start for slot in slots) == [0, SLOT]


def test_a_slot_is_free_once_its_event_is_done() -> None:
    """A slot that is copied from is not given out, and one whose event is done is, in any order."""
    ring = Ring(2, SLOT)
    first, second = taken(ring), taken(ring)
    early, late = ByHand(), ByHand()
    ring.give_back_after(first, late)
    ring.give_back_after(second, early)
    assert ring.take() is None
    early.done = True
    assert ring.take() is second
    assert ring.take() is None
    late.done = True
    assert ring.take() is first


def test_waiting_frees_the_slot_whose_copy_was_issued_first() -> None:
    """A wait returns with a free slot, and says when there is nothing to wait for."""
    ring = Ring(2, SLOT)
    assert not ring.wait()
    first, second = taken(ring), taken(ring)
    ring.give_back_after(first, ByHand())
    ring.give_back_after(second, ByHand())
    assert ring.wait()
    assert ring.take() is first
    assert ring.take() is None
    assert ring.wait()
    assert not ring.wait()


def test_a_slot_that_nothing_was_copied_from_is_free_at_once() -> None:
    """Bytes of a header go nowhere, and their slot waits for no event."""
    ring = Ring(1, SLOT)
    slot = taken(ring)
    ring.give_back(slot)
    assert ring.take() is slot
