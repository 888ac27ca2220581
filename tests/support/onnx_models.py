"""Small ONNX models, written as onnx.proto says, field by field: y = x · weight + bias."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy
import numpy.typing

__all__ = ["message", "save_linear"]

Matrix = numpy.typing.NDArray[numpy.float32]

_FLOAT = 1
_EXTERNAL = 1


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Return a protobuf message of field numbers and values: an int is a varint, all else has a length."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(_varint(number << 3 | 2) + _varint(len(data)) + data)
    return b"".join(parts)


def _tensor(name: str, values: Matrix, place: tuple[str, int] | None) -> bytes:
    form = [(1, size) for size in values.shape] + [(2, _FLOAT), (8, name)]
    if place is None:
        return message(*form, (9, values.tobytes()))
    location, offset = place
    entries = {"location": location, "offset": str(offset), "length": str(values.nbytes)}
    external = [(13, message((1, key), (2, value))) for key, value in entries.items()]
    return message(*form, *external, (14, _EXTERNAL))


def _value(name: str, shape: Iterable[int]) -> bytes:
    dimensions = message(*((1, message((1, size))) for size in shape))
    return message((1, name), (2, message((1, message((1, _FLOAT), (2, dimensions))))))


def save_linear(path: Path, seed: int, width: int = 64, external: str | None = None) -> tuple[Matrix, Matrix]:
    """Write a model, and return its weight and bias.

    Args:
        path: where; folders are created.
        seed: of the weights.
        width: of the input and the output.
        external: location, from the model's folder, of the file that the tensors' data goes to.
    """
    noise = numpy.random.default_rng(seed)
    weight = noise.normal(size=(width, width)).astype(numpy.float32)
    bias = noise.normal(size=(1, width)).astype(numpy.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    places: list[tuple[str, int] | None] = [None, None]
    if external is not None:
        data = path.parent / external
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(weight.tobytes() + bias.tobytes())
        places = [(external, 0), (external, weight.nbytes)]
    nodes = [
        message((1, "x"), (1, "weight"), (2, "product"), (3, "multiply"), (4, "MatMul")),
        message((1, "product"), (1, "bias"), (2, "y"), (3, "add"), (4, "Add")),
    ]
    tensors = [_tensor("weight", weight, places[0]), _tensor("bias", bias, places[1])]
    graph = message(
        *((1, node) for node in nodes),
        (2, "linear"),
        *((5, tensor) for tensor in tensors),
        (11, _value("x", (1, width))),
        (12, _value("y", (1, width))),
    )
    opset = message((1, ""), (2, 17))
    path.write_bytes(message((1, 8), (2, "hotstart tests"), (7, graph), (8, opset)))
    return weight, bias
