"""The layout of small tensors on a device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotstart.devices.packing import ALIGNMENT, pack
from hotstart.wire.ranges import ByteRange


def test_neighbours_at_multiples_of_256_are_one_copy() -> None:
    """Tensors whose distance keeps them aligned stay as they lie."""
    packing = pack([ByteRange(1000, 1512), ByteRange(1512, 1768), ByteRange(1768, 1770)])
    assert packing.runs == [(ByteRange(1000, 1770), 0)]
    assert packing.starts == [0, 512, 768]
    assert packing.size == 770


def test_an_odd_size_begins_a_new_copy() -> None:
    """What follows a scalar is copied by itself, to where it is aligned; nothing is shifted afterwards."""
    packing = pack([ByteRange(0, 4), ByteRange(4, 516), ByteRange(516, 1028)])
    assert packing.runs == [(ByteRange(0, 4), 0), (ByteRange(4, 1028), 256)]
    assert packing.starts == [0, 256, 768]


def test_a_gap_begins_a_new_copy() -> None:
    """Bytes that nobody wants are not copied."""
    packing = pack([ByteRange(0, 256), ByteRange(512, 768)])
    assert packing.runs == [(ByteRange(0, 256), 0), (ByteRange(512, 768), 256)]


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 3, 256]), st.sampled_from([1, 4, 255, 256, 768])), min_size=1
    )
)
def test_every_tensor_is_whole_and_aligned(sizes: list[tuple[int, int]]) -> None:
    """Whatever the sizes, each tensor lies aligned, in one run, and no two share a byte."""
    places = []
    offset = 0
    for gap, size in sizes:
        places.append(ByteRange(offset + gap, offset + gap + size))
        offset += gap + size
    packing = pack(places)
    reached = 0
    for place, start in zip(places, packing.starts, strict=True):
        assert start % ALIGNMENT == 0
        assert start >= reached
        reached = start + len(place)
        assert [
            at + place.start - run.start for run, at in packing.runs if run.intersection(place) == place
        ] == [start]
    assert reached == packing.size
