"""Host memory: what is given back, and when."""

from __future__ import annotations

import gc

from hotstart.buffers import PAGE_BYTES, HostBuffer, discard


def test_whole_pages_of_a_part_are_given_back() -> None:
    """The pages within a part lose their content, and those that it shares with others keep theirs."""
    buffer = HostBuffer(4 * PAGE_BYTES)
    buffer.view[:] = b"x" * len(buffer.view)
    discard(buffer.view[10 : 3 * PAGE_BYTES + 10])
    assert bytes(buffer.view[:PAGE_BYTES]) == b"x" * PAGE_BYTES
    assert not any(buffer.view[PAGE_BYTES : 3 * PAGE_BYTES])
    assert bytes(buffer.view[3 * PAGE_BYTES :]) == b"x" * PAGE_BYTES


def test_other_memory_is_left_alone() -> None:
    """What is no HostBuffer's, what is pinned, and what is empty keeps its content."""
    other = bytearray(b"x" * 3 * PAGE_BYTES)
    discard(memoryview(other))
    assert set(other) == {ord("x")}
    pinned = HostBuffer(3 * PAGE_BYTES, discards=False)
    pinned.on_release(lambda: None)
    pinned.view[:] = other
    discard(pinned.view)
    pinned.discard(0, 3 * PAGE_BYTES)
    assert pinned.view == other
    discard(HostBuffer(0).view)


def test_release_is_called_while_the_memory_is_there() -> None:
    """What is to be done at the end is done once, when the last view dies, and before the memory goes."""
    called = []
    buffer = HostBuffer(PAGE_BYTES)
    view = buffer.view[5:]
    buffer.on_release(lambda: called.append(1))
    del buffer
    gc.collect()
    assert not called
    view[0] = 1
    del view
    gc.collect()
    assert called == [1]
