"""The Safetensors header: eight bytes of length, then JSON that says where each tensor lies.

The builder stands beside its parser. Where the safetensors library leaves room (a name that stands twice),
the parser is stricter, so that no two readers can see different tensors in one file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from . import documents
from .dtypes import BITS
from .errors import FormatError, quoted

__all__ = [
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "Header",
    "TensorInfo",
    "build_header",
    "parse_header",
    "parse_header_length",
    "tensor_bytes",
]

LENGTH_BYTES = 8
# The safetensors library's own limit; its reader refuses longer headers.
MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
_WHAT = "Safetensors header"
# Offsets and element counts are u64 in the library, and so is its overflow.
_MAX_U64 = 2**64 - 1

BytesLike: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: as in the header.
        dtype: one of ``dtypes.BITS``.
        shape: elements by axis; empty for a scalar.
        start: first byte, counted from the start of the data section.
        stop: the byte after the last; equal to start for an empty tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        tensors: by name, in the order of their offsets; together they cover the data section without holes.
        metadata: the writer's own strings.
        length: bytes of the JSON with its padding, without the 8 bytes of the length itself.
        data_bytes: bytes of the data section.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    length: int
    data_bytes: int

    @property
    def data_start(self) -> int:
        """The offset in the file at which the data section begins."""
        return LENGTH_BYTES + self.length

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return self.data_start + self.data_bytes

    def check_file_size(self, file_size: int) -> None:
        """Raise FormatError if the header describes a file of another size."""
        if self.file_bytes != file_size:
            raise FormatError(
                "Safetensors file", f"{file_size} bytes, but its header describes {self.file_bytes}"
            )


def parse_header_length(first8: BytesLike) -> int:
    """Return the length of the JSON that follows the first 8 bytes of a file.

    Raises:
        FormatError: not 8 bytes, or a length that is 0 or beyond ``MAX_HEADER_BYTES``.
    """
    if len(first8) != LENGTH_BYTES:
        raise FormatError(_WHAT, f"{len(first8)} bytes: expected the {LENGTH_BYTES} bytes of its length")
    (length,) = struct.unpack("<Q", first8)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise FormatError(
            _WHAT, f"claims {length} bytes: expected 2 to {MAX_HEADER_BYTES}; is this a .safetensors file?"
        )
    assert isinstance(length, int)
    return length


def parse_header(json_bytes: BytesLike, file_size: int | None) -> Header:
    """Parse the JSON of a header and check all that it claims.

    Args:
        json_bytes: exactly as many bytes as the length says, padding included.
        file_size: bytes of the whole file, which the header's claims must add up to; None where unknown.

    Raises:
        FormatError: not UTF-8 JSON of this shape, an unknown dtype, a shape that does not fit its bytes,
            offsets with holes or overlaps, a name that stands twice, or sums other than the file's size.
    """
    length = len(json_bytes)
    if length > MAX_HEADER_BYTES:
        raise FormatError(_WHAT, f"{length} bytes: expected at most {MAX_HEADER_BYTES}")
    members = documents.load_json(json_bytes, _WHAT).members
    metadata = _parse_metadata(members.pop(_METADATA, None))
    infos = sorted(
        (_parse_tensor(name, member) for name, member in members.items()),
        key=lambda info: (info.start, info.stop),
    )
    position = 0
    for info in infos:
        if info.start != position:
            kind = "a hole" if info.start > position else "an overlap"
            raise _fault(info.name, f"starts at {info.start}, expected {position}: {kind} in the data")
        position = info.stop
    header = Header({info.name: info for info in infos}, metadata, length, position)
    if file_size is not None and header.file_bytes != file_size:
        raise FormatError(
            _WHAT, f"describes a file of {header.file_bytes} bytes, but the file has {file_size}"
        )
    return header


def _parse_metadata(member: object) -> dict[str, str]:
    if member is None:
        return {}
    if not isinstance(member, dict):
        raise FormatError(_WHAT, f"{_METADATA}: expected an object of strings")
    for value in member.values():
        if not isinstance(value, str):
            raise FormatError(_WHAT, f"{_METADATA}: expected strings, found {type(value).__name__}")
    return member


def _parse_tensor(name: str, member: object) -> TensorInfo:
    if not isinstance(member, dict):
        raise _fault(name, f"expected an object, found {type(member).__name__}")
    dtype = member.get("dtype")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _fault(name, f"dtype {quoted(str(dtype))}: expected one of {', '.join(BITS)}")
    shape = _integers(name, "shape", member.get("shape"))
    offsets = _integers(name, "data_offsets", member.get("data_offsets"))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _fault(name, "data_offsets: expected [begin, end] with begin <= end")
    wanted = tensor_bytes(name, dtype, shape)
    if offsets[1] - offsets[0] != wanted:
        raise _fault(
            name,
            f"data_offsets hold {offsets[1] - offsets[0]} bytes, but {dtype} {_short(shape)} has {wanted}",
        )
    return TensorInfo(name, dtype, shape, offsets[0], offsets[1])


def _integers(name: str, key: str, value: object) -> tuple[int, ...]:
    # type(), not isinstance(): JSON's true is an int in Python.
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= _MAX_U64 for item in value):
        raise _fault(name, f"{key}: expected a list of integers from 0 to 2^64-1")
    return tuple(value)


def tensor_bytes(name: str, dtype: str, shape: Iterable[int]) -> int:
    """Return how many bytes a tensor fills.

    Args:
        name: for the error.
        dtype: one of ``BITS``.
        shape: elements by axis, each from 0.

    Raises:
        FormatError: beyond 64 bits, or sub-byte elements that do not fill whole bytes.
    """
    elements = 1
    for axis in shape:
        elements *= axis
        # Checked at each step: the product of a million axes would take for ever.
        if elements > _MAX_U64:
            raise _fault(name, "shape: more elements than 64 bits can count")
    bits = elements * BITS[dtype]
    if bits > _MAX_U64:
        raise _fault(name, "shape: more bits than 64 bits can count")
    if bits % 8:
        raise _fault(name, f"{elements} elements of {dtype} do not fill whole bytes")
    return bits // 8


def _short(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"of {len(shape)} axes"


def _fault(name: str, reason: str) -> FormatError:
    return FormatError(_WHAT, f"tensor {quoted(name)}: {reason}")


def build_header(
    tensors: Iterable[tuple[str, str, Iterable[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Build a header whose tensors follow each other in the order given, without holes.

    Args:
        tensors: name, dtype and shape of each.
        metadata: strings by name; None or empty leaves the member out.

    Returns:
        The 8 bytes of the length, then the JSON, padded with spaces so that the data section is 8-aligned.

    Raises:
        FormatError: what ``parse_header`` would refuse: a name twice, an unknown dtype, a shape that does not
            fill whole bytes, text that is not UTF-8, more than ``MAX_HEADER_BYTES``.
    """
    members: dict[str, object] = {}
    if metadata:
        members[_METADATA] = _parse_metadata(dict(metadata))
    position = 0
    for name, dtype, axes in tensors:
        if name in members or name == _METADATA:
            raise _fault(name, "the name stands twice, or is reserved")
        if dtype not in BITS:
            raise _fault(name, f"dtype {quoted(dtype)}: expected one of {', '.join(BITS)}")
        shape = _integers(name, "shape", list(axes))
        stop = position + tensor_bytes(name, dtype, shape)
        members[name] = {"dtype": dtype, "shape": shape, "data_offsets": (position, stop)}
        position = stop
    try:
        text = documents.dump_json(members)
    except UnicodeEncodeError as error:
        raise FormatError(_WHAT, f"a name or metadata is not UTF-8: {error.reason}") from error
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(_WHAT, f"{len(text)} bytes: expected at most {MAX_HEADER_BYTES}")
    return struct.pack("<Q", len(text)) + text
