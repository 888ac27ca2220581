"""Whatever is written is read back the same, and plans keep their rules, for any input."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.wire.dtypes import BITS
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES, FrameDecoder
from hotstart.wire.framing import FrameEncoder, plan_frames
from hotstart.wire.index import AliasClash, Index, IndexEntry
from hotstart.wire.planes import check_prefix, frame_widths, identity_table, merge
from hotstart.wire.ranges import ByteRange, coalesce, split, subtract
from hotstart.wire.safetensors import LENGTH_BYTES, build_header, parse_header, tensor_bytes
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX, plan_twin
from tests.support.safetensors_library import LibraryTensor, read_with_library

QUICK = settings(max_examples=300, deadline=None)

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(lambda shape: (*shape, 4))
TENSORS = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(BITS)), SHAPES),
    max_size=6,
)


@QUICK
@given(tensors=TENSORS, metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_headers(tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    """Any set of tensors is built, read back by us, and read the same by the safetensors library."""
    built = build_header([(name, dtype, shape) for name, (dtype, shape) in tensors.items()], metadata)
    header = parse_header(built[LENGTH_BYTES:], None)
    assert {info.name: (info.dtype, info.shape) for info in header.tensors.values()} == tensors
    assert header.metadata == metadata
    data = bytes(number % 251 for number in range(header.data_bytes))
    assert read_with_library(built + data) == {
        info.name: LibraryTensor(info.dtype, info.shape, data[info.start : info.stop])
        for info in header.tensors.values()
    }


@QUICK
@given(tensors=TENSORS, data=st.data())
def test_planes(tensors: dict[str, tuple[str, tuple[int, ...]]], data: st.DataObject) -> None:
    """Any file becomes planes, frame by frame, and comes back bit for bit by what a reader finds out."""
    built = build_header([(name, dtype, shape) for name, (dtype, shape) in tensors.items()])
    size = parse_header(built[LENGTH_BYTES:], None).data_bytes
    file = built + data.draw(st.binary(min_size=size, max_size=size))
    form = plan_twin(PLANES_SUFFIX, parse_header(built[LENGTH_BYTES:], len(file)), len(file))
    contents = [
        form.content(index, file[place.start : place.stop]) for index, place in enumerate(form.frames)
    ]
    frames = [FrameEncoder().encode(content) for content in contents]
    sizes = [(len(content), len(frame)) for content, frame in zip(contents, frames, strict=True)]

    table = identity_table(SeekTable.parse(SeekTable.of(sizes).dump()))
    read = bytes(check_prefix(memoryview(contents[0])))
    widths = frame_widths(parse_header(read[LENGTH_BYTES:], len(file)), table)
    for entry, width, content in zip(table.entries[1:], widths[1:], contents[1:], strict=True):
        merged = bytearray(len(entry.content))
        merge(memoryview(content), width, memoryview(merged))
        read += merged
    assert read == file


@QUICK
@given(
    content=st.one_of(
        st.binary(min_size=1, max_size=2000),
        st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 20_000)).map(
            lambda pair: pair[0] * pair[1]
        ),
    )
)
def test_frames(content: bytes) -> None:
    """Any content is encoded and decoded bit for bit."""
    destination = bytearray(len(content))
    FrameDecoder().decode_into(memoryview(FrameEncoder().encode(content)), memoryview(destination))
    assert destination == content


SIZES = st.lists(
    st.one_of(st.integers(0, 9), st.integers(0, 20 << 20), st.sampled_from([FRAME_BYTES, FRAME_BYTES + 1])),
    max_size=30,
)


@QUICK
@given(sizes=SIZES)
def test_plans(sizes: list[int]) -> None:
    """Frames cover any file without holes; large tensors begin a frame, and small ones lie in one."""
    built = build_header((f"t{number}", "U8", (size,)) for number, size in enumerate(sizes))
    header = parse_header(built[LENGTH_BYTES:], None)
    frames = plan_frames(header, header.file_bytes)
    assert frames[0] == ByteRange(0, header.data_start)
    assert [frame.start for frame in frames[1:]] == [frame.stop for frame in frames[:-1]]
    assert frames[-1].stop == header.file_bytes
    assert all(0 < len(frame) <= FRAME_BYTES for frame in frames[1:])
    table = SeekTable.of((len(frame), len(frame) + 20) for frame in frames)
    for info in header.tensors.values():
        place = ByteRange(header.data_start + info.start, header.data_start + info.stop)
        held = table.frames_for(place)
        if len(place) > FRAME_BYTES:
            assert held[0].content.start == place.start
            assert all(len(entry.content) == FRAME_BYTES for entry in held[:-1])
        else:
            assert len(held) == min(len(place), 1)


@QUICK
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    start=st.integers(0, 1100),
    length=st.integers(0, 1100),
)
def test_seek_tables(sizes: list[int], start: int, length: int) -> None:
    """Any table is read back the same, and finds exactly the frames that a look at each of them finds."""
    table = SeekTable.of((size, size + 20) for size in sizes)
    assert SeekTable.parse(table.dump()) == table
    wanted = ByteRange(start, start + length)
    assert table.frames_for(wanted) == tuple(
        entry for entry in table.entries if len(entry.content.intersection(wanted))
    )


RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda pair: ByteRange(pair[0], sum(pair))),
    max_size=8,
)


def covered(ranges: list[ByteRange]) -> set[int]:
    return {byte for item in ranges for byte in range(item.start, item.stop)}


@QUICK
@given(ranges=RANGES, gap=st.integers(0, 5))
def test_coalesce(ranges: list[ByteRange], gap: int) -> None:
    """Merged ranges cover all bytes of the given ones and at most the gaps between them, in order."""
    merged = coalesce(ranges, gap)
    assert covered(merged) >= covered(ranges)
    assert all(later.start - earlier.stop > gap for earlier, later in pairwise(merged))
    if gap == 0:
        assert covered(merged) == covered(ranges)


@QUICK
@given(
    start=st.integers(0, 100), length=st.integers(0, 100), align=st.integers(1, 7), times=st.integers(1, 4)
)
def test_split(start: int, length: int, align: int, times: int) -> None:
    """Cuts follow each other, none is empty or too long, and inner borders are aligned."""
    whole = ByteRange(start, start + length)
    cuts = split(whole, align * times, align)
    assert covered(cuts) == covered([whole])
    assert sum(len(cut) for cut in cuts) == length
    assert all(0 < len(cut) <= align * times for cut in cuts)
    assert all(cut.stop % align == 0 for cut in cuts[:-1])


@QUICK
@given(wanted=st.tuples(st.integers(0, 60), st.integers(0, 30)), done=RANGES)
def test_subtract(wanted: tuple[int, int], done: list[ByteRange]) -> None:
    """What is left is exactly what is wanted and not done, in runs that do not touch."""
    whole = ByteRange(wanted[0], sum(wanted))
    left = subtract(whole, done)
    assert covered(left) == covered([whole]) - covered(done)
    assert left == coalesce(left)


@QUICK
@given(dtype=st.sampled_from(sorted(BITS)), shape=st.lists(st.integers(0, 2**64), max_size=5))
def test_tensor_bytes(dtype: str, shape: list[int]) -> None:
    """The bytes of a tensor are bits times elements over 8, or the error comes."""
    elements = 1
    for axis in shape:
        elements *= axis
    try:
        found = tensor_bytes("t", dtype, shape)
    except FormatError:
        return
    assert found * 8 == elements * BITS[dtype]


NAMES = st.sampled_from(["1", "2", "10", "v1", "prod", "canary"])
CHANGES = st.one_of(
    st.tuples(st.just("publish"), NAMES, st.integers(0, 50)),
    st.tuples(st.just("alias"), NAMES, NAMES),
    st.tuples(st.just("unalias"), NAMES, st.just(0)),
    st.tuples(st.just("remove"), NAMES, st.just(0)),
)


def apply(index: Index, change: tuple[str, str, object]) -> Index:
    verb, name, value = change
    if verb == "publish":
        assert isinstance(value, int)
        return index.with_version(IndexEntry(name, value))
    if verb == "alias":
        assert isinstance(value, str)
        return index.with_alias(name, value)
    return index.without_alias(name) if verb == "unalias" else index.without_version(name)


@QUICK
@given(changes=st.lists(CHANGES, max_size=15))
def test_index(changes: list[tuple[str, str, object]]) -> None:
    """After any changes an index can be stored and read, is in order, and every alias means a version."""
    index = Index("org/bert")
    for change in changes:
        before = index
        try:
            index = apply(before, change)
        except AliasClash:
            continue
        assert index is before or index.serial == before.serial + 1
        published = [entry.published_at for entry in index.versions]
        assert published == sorted(set(published))
        assert all(index.resolve(alias) == version for alias, version in index.aliases.items())
        if change[0] == "publish" and index is not before:
            assert index.latest() == change[1]
        assert Index.parse(index.dump()) == index
