"""The target of a Safetensors file, fed by hand in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.engine.planning import cut
from hotstart.engine.weights import TensorReady, WeightsTarget
from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, OriginObject
from hotstart.wire.pieces import PIECE_BYTES, PieceHasher, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart.wire.safetensors import Header, TensorInfo, build_header

SHAPES = {
    "a": (3, 5),
    "empty": (0, 7),
    "b": (PIECE_BYTES + 3,),
    "c": (),
    "d": (PIECE_BYTES // 2,),
    "last": (0,),
}
HEADER = build_header((name, "U8", shape) for name, shape in SHAPES.items())
CONTENT = HEADER + random.Random(3).randbytes(15 + PIECE_BYTES + 3 + 1 + PIECE_BYTES // 2)


def file(*, known: bool, content: bytes = CONTENT) -> File:
    """Return the file as published, or as adopted where its header and digests are not known."""
    hasher = PieceHasher()
    hasher.update(content)
    sha256, pieces = hasher.finish()
    origin = OriginObject("k", '"e"')
    if not known:
        return File("m.safetensors", len(content), None, sha256, "x/y", origin)
    return File("m.safetensors", len(content), sha256, sha256, "x/y", origin, len(HEADER) - 8, pieces)


def feed(target: WeightsTarget, order: random.Random, *, checked: bool) -> None:
    """Receive all that the target asks for, each request in parts, in a random order of requests."""
    left = target.begin()
    target.settle(ByteRange(0, 0))
    while left:
        request = left.pop(order.randrange(len(left)))
        for part in cut([request], PIECE_BYTES):
            target.window(part)[:] = CONTENT[part.start : part.stop]
            if not checked:
                left += target.settle(part).requests
                continue
            for piece in target.received(part):
                left += target.settle(piece_range(piece, target.file.size)).requests


@given(
    seed=st.integers(0, 2**16),
    names=st.none() | st.sets(st.sampled_from(sorted(SHAPES))),
    known=st.booleans(),
    checked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_wanted_tensor_is_delivered_once_with_its_bytes(
    seed: int, names: set[str] | None, known: bool, checked: bool
) -> None:
    """In whatever order bytes arrive, each tensor comes once, whole, and only when its bytes are good."""
    delivered: list[TensorReady] = []

    def choose(header: Header) -> Sequence[TensorInfo]:
        return [info for name, info in header.tensors.items() if names is None or name in names]

    def deliver(ready: TensorReady) -> None:
        start = len(HEADER) + ready.info.start
        assert bytes(ready.data) == CONTENT[start : len(HEADER) + ready.info.stop]
        delivered.append(ready)

    target = WeightsTarget(file(known=known), choose, deliver, whole=names is None, checked=checked and known)
    feed(target, random.Random(seed), checked=checked and known)
    target.finish()
    wanted = SHAPES if names is None else {name: SHAPES[name] for name in names}
    assert sorted(ready.info.name for ready in delivered) == sorted(wanted)
    assert {ready.info.name: ready.info.shape for ready in delivered} == wanted


def test_a_long_header_of_unknown_length_is_fetched_whole() -> None:
    """Where the first request does not hold all of the header, the rest is asked for before the plan."""
    header = build_header([("t", "U8", (5,))], {"note": "x" * (PIECE_BYTES + 100)})
    content = header + b"12345"
    for whole in (True, False):
        delivered: list[TensorReady] = []
        target = WeightsTarget(
            file(known=False, content=content),
            lambda header: list(header.tensors.values()),
            delivered.append,
            whole=whole,
            checked=False,
        )
        left = target.begin()
        while left:
            request = left.pop()
            target.window(request)[:] = content[request.start : request.stop]
            left += target.settle(request).requests
        assert [bytes(ready.data) for ready in delivered] == [b"12345"]


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_too_short_for_a_header_is_refused_unread(content: bytes) -> None:
    """Fewer than 8 bytes are no Safetensors file, and nothing is asked for."""
    target = WeightsTarget(
        file(known=False, content=content), lambda header: [], lambda ready: None, whole=True, checked=False
    )
    with pytest.raises(FormatError, match="expected at least 8"):
        target.begin()


def test_a_header_other_than_the_manifest_s_is_refused() -> None:
    """A file whose header has another length than was published is not what it claims to be."""
    lying = File(
        "m.safetensors", len(CONTENT), None, "0" * 64, "x/y", OriginObject("k", '"e"'), len(HEADER) - 16
    )
    target = WeightsTarget(lying, lambda header: [], lambda ready: None, whole=True, checked=False)
    (first, *_) = target.begin()
    target.window(first)[:] = CONTENT[: first.stop]
    with pytest.raises(FormatError, match="the manifest says"):
        target.settle(first)
