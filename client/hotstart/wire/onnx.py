"""ONNX models: which other files hold their tensors' data. Of the format no more than that is read.

An ONNX model is a protobuf message. Tensors that do not fit into it (it ends at 2 GiB) name a file beside it,
in an entry ``location`` of their ``external_data``. Messages are walked, not decoded: only fields that lead
to a tensor are entered. The numbers are those of onnx.proto, which are never reused.
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import FormatError

__all__ = ["external_files"]

_WHAT = "ONNX model"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
# Subgraphs lie in attributes of nodes of graphs: real models nest a few.
_MAX_DEPTH = 100

_LOCATION = b"location"
# By message: which of its fields hold messages that lead to a tensor, and which kind they are.
_ENTRY = "StringStringEntryProto"
_CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: _ENTRY},
}


def external_files(model: bytes | memoryview) -> list[str]:
    """Return the locations of tensors' data outside the model, as they are written in it, each once.

    Raises:
        FormatError: the bytes are no protobuf message, or nest too deep.
    """
    return list(dict.fromkeys(_locations(memoryview(model), "ModelProto", 0)))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise FormatError(_WHAT, f"its messages nest deeper than {_MAX_DEPTH}")
    if kind == _ENTRY:
        entry = dict(_fields(message))
        if 1 in entry and bytes(entry[1]) == _LOCATION:
            yield _text(entry.get(2, memoryview(b"")))
        return
    children = _CHILDREN[kind]
    for number, value in _fields(message):
        if number in children:
            yield from _locations(value, children[number], depth + 1)


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise FormatError(_WHAT, "a location is not UTF-8") from error


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of every field that holds bytes; others are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire_type = key & 7
        if wire_type == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise FormatError(_WHAT, f"a field of {length} bytes goes beyond its message's end")
            yield key >> 3, message[at : at + length]
            at += length
        elif wire_type == _VARINT:
            _, at = _varint(message, at)
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        else:
            raise FormatError(_WHAT, f"a field has wire type {wire_type}, expected 0, 1, 2 or 5")
    if at > len(message):
        raise FormatError(_WHAT, "its last field is cut short")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    number = 0
    for index, byte in enumerate(message[at : at + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise FormatError(_WHAT, "a number is cut short, or longer than 10 bytes")
