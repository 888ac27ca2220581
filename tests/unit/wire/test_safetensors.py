"""The Safetensors header, against the safetensors library in both directions."""

from __future__ import annotations

import json

import numpy
import numpy.typing
import pytest
from safetensors.numpy import save

from hotstart.wire.dtypes import BITS
from hotstart.wire.errors import FormatError
from hotstart.wire.safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Header,
    TensorInfo,
    build_header,
    parse_header,
    parse_header_length,
    tensor_bytes,
)
from tests.support.safetensors_library import (
    WRITABLE,
    LibraryTensor,
    read_with_library,
    write_with_library,
)


def parse(file: bytes) -> Header:
    length = parse_header_length(file[:LENGTH_BYTES])
    return parse_header(file[LENGTH_BYTES : LENGTH_BYTES + length], len(file))


def test_example_spelled_out() -> None:
    """One header, byte by byte."""
    header = build_header([("a", "F32", (2, 3)), ("b", "BF16", ())], {"k": "v"})
    text = (
        b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}'
    )
    padded = text + b" " * (-len(text) % 8)
    assert header == len(padded).to_bytes(8, "little") + padded
    assert parse_header(padded, len(header) + 26) == Header(
        {"a": TensorInfo("a", "F32", (2, 3), 0, 24), "b": TensorInfo("b", "BF16", (), 24, 26)},
        {"k": "v"},
        len(padded),
        26,
    )


SHAPES = [(8,), (), (0,), (3, 0, 5), (2, 4, 1), (4, 2**20)]


@pytest.mark.parametrize("dtype", BITS)
def test_library_reads_what_we_build(dtype: str) -> None:
    """The library finds every tensor that we build, of every dtype, empty and scalar too, bit for bit."""
    shapes = [shape for shape in SHAPES if BITS[dtype] % 8 == 0 or shape]
    tensors = [(f"t{number}", dtype, shape) for number, shape in enumerate(shapes)]
    header = build_header(tensors, {"format": "pt"})
    size = sum(tensor_bytes(*tensor) for tensor in tensors)
    data = bytes(numpy.random.default_rng(1).integers(0, 256, size, dtype=numpy.uint8))
    found = read_with_library(header + data)
    parsed = parse(header + data)
    assert len(header) % 8 == 0
    assert parsed.data_start == len(header)
    assert list(parsed.tensors) == [name for name, _, _ in tensors]
    for name, _, shape in tensors:
        info = parsed.tensors[name]
        assert (info.dtype, info.shape) == (dtype, shape)
        assert found[name] == LibraryTensor(dtype, shape, data[info.start : info.stop])


@pytest.mark.parametrize("dtype", WRITABLE)
def test_we_read_what_the_library_writes(dtype: str) -> None:
    """Every tensor that the library writes, of every dtype that it can, is found where its bytes are."""
    tensors = {}
    for number, shape in enumerate([(8,), (0,), (2, 5, 4)]):
        data = bytes([number + 1]) * tensor_bytes("t", dtype, shape)
        tensors[f"t{number}"] = LibraryTensor(dtype, shape, data)
    file = write_with_library(tensors, {"format": "pt"})
    header = parse(file)
    assert header.metadata == {"format": "pt"}
    found = {
        name: LibraryTensor(
            info.dtype, info.shape, file[header.data_start + info.start : header.data_start + info.stop]
        )
        for name, info in header.tensors.items()
    }
    assert found == tensors


def test_only_six_bit_dtypes_cannot_be_written_by_the_library() -> None:
    """The oracle leaves out no dtype that it could write; reading covers all 22."""
    assert set(BITS) - set(WRITABLE) == {"F6_E2M3", "F6_E3M2"}


def test_we_read_what_numpy_users_write() -> None:
    """A file from safetensors.numpy, which orders by alignment, is read in the order of offsets."""
    arrays: dict[str, numpy.typing.NDArray[numpy.generic]] = {
        "z": numpy.arange(6, dtype=numpy.float64).reshape(2, 3),
        "scalar": numpy.array(1.5, dtype=numpy.float32),
        "empty": numpy.zeros((0, 4), dtype=numpy.int64),
        "flags": numpy.array([True, False, True]),
    }
    file = save(arrays)
    header = parse(file)
    starts = [info.start for info in header.tensors.values()]
    assert starts == sorted(starts)
    for name, array in arrays.items():
        info = header.tensors[name]
        assert info.shape == array.shape
        assert file[header.data_start + info.start : header.data_start + info.stop] == array.tobytes()


def test_files_without_tensors() -> None:
    """A file may hold no tensor at all, with or without metadata; either side reads the other's."""
    assert read_with_library(build_header([])) == {}
    assert parse(build_header([])).tensors == {}
    assert parse(save({})).data_bytes == 0
    assert parse(save({}, {"k": "v"})).metadata == {"k": "v"}
    assert parse(build_header([], {"k": "é"})).metadata == {"k": "é"}


def test_unknown_size_is_not_compared() -> None:
    """Whoever does not know the file's size yet can still read the header."""
    header = build_header([("a", "U8", (5,))])
    assert parse_header(header[LENGTH_BYTES:], None).data_bytes == 5
    with pytest.raises(FormatError, match="describes a file of"):
        parse_header(header[LENGTH_BYTES:], len(header) + 4)


def test_library_rules_that_are_kept() -> None:
    """Unknown members, null metadata, outer whitespace and odd names are as fine as for the library."""
    text = b' {"__metadata__":null,"":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"new":[1.5]}}\n'
    file = len(text).to_bytes(8, "little") + text + b"x"
    assert list(read_with_library(file)) == list(parse(file).tensors) == [""]


def test_zero_hides_no_overflow() -> None:
    """A shape that begins with 0 has no elements; one that overflows before its 0 is refused, as there."""
    huge = 2**60
    assert tensor_bytes("t", "U8", (0, huge, huge)) == 0
    with pytest.raises(FormatError, match="64 bits"):
        tensor_bytes("t", "U8", (huge, huge, 0))
    with pytest.raises(FormatError, match="64 bits"):
        tensor_bytes("t", "F64", (2**58,))
    assert tensor_bytes("t", "F64", (2**58 - 1,)) == 2**61 - 8


@pytest.mark.parametrize(
    ("tensors", "metadata", "reason"),
    [
        ([("a", "U8", (1,)), ("a", "U8", (1,))], None, "stands twice"),
        ([("__metadata__", "U8", (1,))], None, "reserved"),
        ([("a", "F128", (1,))], None, "dtype 'F128': expected one of BOOL"),
        ([("a", "U8", (-1,))], None, "shape: expected a list of integers"),
        ([("a", "F4", (3,))], None, "do not fill whole bytes"),
        ([("a", "F6_E2M3", ())], None, "do not fill whole bytes"),
        ([("\ud800", "U8", ())], None, "not UTF-8"),
        ([], {"k": "\udfff"}, "not UTF-8"),
        ([], {"k": "x" * MAX_HEADER_BYTES}, "expected at most 100000000"),
    ],
)
def test_builder_refuses(
    tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str] | None, reason: str
) -> None:
    """The builder refuses what the parser would, so that no unreadable file is ever written."""
    with pytest.raises(FormatError, match=reason):
        build_header(tensors, metadata)


def test_many_tensors() -> None:
    """A header of ten thousand tensors is read as it was built."""
    tensors = [(f"layer.{number}.weight", "BF16", (1, number % 7)) for number in range(10_000)]
    header = build_header(tensors)
    parsed = parse_header(header[LENGTH_BYTES:], None)
    assert [(info.name, info.dtype, info.shape) for info in parsed.tensors.values()] == tensors
    assert json.loads(header[LENGTH_BYTES:])["layer.5.weight"]["shape"] == [1, 5]
