"""The plan of one file on its way to a device: chunks, whatever sources follow each other."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from hotstart.devices.incoming import Chunk, ChunkTarget, Incoming
from hotstart.devices.ring import Slot
from hotstart.engine.targets import TwinPlan
from hotstart.sources.base import Session, Source, SourceKind
from hotstart.wire.manifest import File, OriginObject, Representation, Twin
from hotstart.wire.pieces import PieceHasher
from hotstart.wire.ranges import ByteRange, coalesce
from hotstart.wire.seek_table import SeekTable

MEBIBYTE = 1024 * 1024
SLOT_BYTES = 16 * MEBIBYTE
HEADER_BYTES = 1000
# The header alone, then frames that begin and end within pieces.
TABLE = SeekTable.of([(HEADER_BYTES, 600), *[(4 * MEBIBYTE, 3 * MEBIBYTE)] * 12])
STORED_BYTES = TABLE.entries[-1].stored.stop + len(TABLE.dump())


class Lister(Source):
    """Has the twin or not; is asked for no bytes."""

    name = "lister"
    kind = SourceKind.TCP

    def __init__(self, *, has_twin: bool) -> None:
        self.has_twin = has_twin

    def has(self, representation: Representation) -> bool:
        return self.has_twin

    def session(self) -> Session:
        raise AssertionError("it is not asked")


def incoming() -> Incoming:
    origin = OriginObject("k", '"e"')
    sha256, pieces = PieceHasher().finish()
    twin = Twin(".zst", STORED_BYTES, sha256, origin, pieces, TABLE.dump())
    file = File("m", TABLE.content_bytes, None, "c" * 64, "x/y", origin, HEADER_BYTES - 8, None, (twin,))
    plan = TwinPlan.of(file, ".zst")
    return Incoming(file, lambda header: (), whole=True, checked=False, slot_bytes=SLOT_BYTES, twin=plan)


@given(has_twin=st.lists(st.booleans(), min_size=20, max_size=20))
@example(has_twin=[True, False, True, *[True] * 17])
def test_every_request_lies_in_its_slot(has_twin: list[bool]) -> None:
    """Whichever of the sources that follow each other have frames, all bytes are asked for once, in place."""
    coming = incoming()
    memory = memoryview(bytearray(SLOT_BYTES))
    asked: list[ByteRange] = []
    for has in has_twin:
        if not coming.has_more:
            break
        twin = coming.twin_at(Lister(has_twin=has))
        assert has or twin is None
        base, ranges = coming.next_ranges(frames=twin is not None)
        target = ChunkTarget(Chunk(coming, Slot(0, memory), base, ranges), twin, lambda chunk: None)
        for wanted in target.begin():
            assert wanted.start >= base
            assert len(target.window(wanted)) == len(wanted)
            asked.append(wanted)
    assert not coming.has_more
    assert sum(map(len, asked)) == TABLE.content_bytes
    assert coalesce(asked) == [ByteRange(0, TABLE.content_bytes)]
