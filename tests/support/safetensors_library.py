"""The safetensors library as an independent reader and writer of bytes, over all dtypes and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
import safetensors

__all__ = ["WRITABLE", "LibraryTensor", "read_with_library", "write_with_library"]

# What the library's Python side calls the dtypes that it can write: all but the two of 6 bits.
WRITABLE: Mapping[str, str] = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


@dataclass(frozen=True, slots=True)
class LibraryTensor:
    """One tensor: dtype as in the header, shape in elements, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_with_library(file: bytes) -> dict[str, LibraryTensor]:
    """Return all tensors of a file.

    Raises:
        safetensors.SafetensorError: the library refuses the file.
    """
    tensors = safetensors.deserialize(file)  # type: ignore[no-untyped-call]
    return {
        name: LibraryTensor(tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
        for name, tensor in tensors
    }


def write_with_library(tensors: Mapping[str, LibraryTensor], metadata: Mapping[str, str] | None) -> bytes:
    """Return the file that the library makes of tensors of the ``WRITABLE`` dtypes."""
    buffers = []
    specs = {}
    for name, tensor in tensors.items():
        # One byte more, so that empty tensors have an address too.
        buffer = numpy.frombuffer(tensor.data + b"\0", numpy.uint8)
        buffers.append(buffer)
        shape = list(tensor.shape)
        if tensor.dtype == "F4":
            # Given as torch stores it, two to a byte; the library doubles the last axis.
            shape[-1] //= 2
        specs[name] = safetensors.TensorSpec(
            dtype=WRITABLE[tensor.dtype],
            shape=shape,
            data_ptr=buffer.ctypes.data,
            data_len=len(tensor.data),
        )
    return bytes(safetensors.serialize(specs, None if metadata is None else dict(metadata)))
