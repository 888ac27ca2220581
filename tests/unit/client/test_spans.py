"""Sets of offsets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hotstart.engine.spans import SpanSet
from hotstart.wire.ranges import ByteRange

RANGES = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: ByteRange(pair[0], sum(pair)))


@given(st.lists(RANGES), RANGES)
def test_it_is_a_set_of_integers(added: list[ByteRange], asked: ByteRange) -> None:
    """Whatever is added in whatever order, the set is that of the offsets, in the fewest ranges."""
    spans, model = SpanSet(), set[int]()
    for item in added:
        merged = spans.add(item)
        model |= set(range(item.start, item.stop))
        assert set(range(merged.start, merged.stop)) <= model
        assert merged.start <= item.start <= item.stop <= merged.stop
        if len(item):
            assert merged.start - 1 not in model
            assert merged.stop not in model
    ranges = spans.ranges()
    assert {offset for item in ranges for offset in range(item.start, item.stop)} == model
    assert all(left.stop < right.start for left, right in itertools.pairwise(ranges))
    assert len(spans) == len(model)
    assert spans.covers(asked) == (set(range(asked.start, asked.stop)) <= model)
