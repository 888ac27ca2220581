"""Writing tensors of torch as a Safetensors file, with a few MiB of memory whatever their size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import build_header, tensor_bytes

from .errors import ConversionRefused

__all__ = ["CAST_TO", "Written", "write_safetensors"]

# By the name that the command line has for it.
CAST_TO: Mapping[str, str] = {"bf16": "BF16", "fp16": "F16"}

# Of torch, by its own names. What is missing here (complex128, quantized) Safetensors has no dtype for.
_DTYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_NAMES: Mapping[str, str] = {dtype: name for name, dtype in _DTYPES.items()}
# Narrower floats are quantized, and mean nothing without their scales.
_CAST_FROM = frozenset({"F64", "F32", "F16", "BF16"})
# transformers refuses a file that does not say whose tensors these are.
_METADATA = {"format": "pt"}
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        names: of its tensors.
        data_bytes: of its tensors, without the header.
        size: of the file, in bytes.
    """

    names: tuple[str, ...]
    data_bytes: int
    size: int


def write_safetensors(path: Path, tensors: Mapping[str, Any], cast_to: str | None, source: str) -> Written:
    """Write a new file: the same bytes for the same tensors, the widest first, so that all are aligned.

    Args:
        path: must not be there.
        tensors: dense ones in host memory, of any strides.
        cast_to: of ``CAST_TO``'s values: what floats of 16 bits or more become; None leaves them.
        source: where the tensors come from, for errors.

    Raises:
        ConversionRefused: with all tensors of a dtype that Safetensors lacks, or one whose numbers the cast
            makes infinite.
        OSError: it cannot be written; something may be left of it.
    """
    dtypes = {name: _DTYPES.get(_torch_name(tensor.dtype)) for name, tensor in tensors.items()}
    missing = [
        f"{name} is of {tensors[name].dtype}, which Safetensors lacks"
        for name, dtype in dtypes.items()
        if dtype is None
    ]
    if missing:
        raise ConversionRefused(source, missing)
    final = {name: _cast(dtype, cast_to) for name, dtype in dtypes.items() if dtype is not None}
    names = sorted(final, key=lambda name: -BITS[final[name]])
    header = build_header(((name, final[name], tuple(tensors[name].shape)) for name in names), _METADATA)
    data_bytes = sum(tensor_bytes(name, final[name], tuple(tensors[name].shape)) for name in names)
    with path.open("xb", buffering=0) as file:
        # A full disk is found now, not after an hour.
        os.posix_fallocate(file.fileno(), 0, len(header) + data_bytes)
        _write(file, memoryview(header))
        buffer = bytearray(_CHUNK_BYTES)
        for name in names:
            _write_tensor(file, name, tensors[name], final[name], buffer, source)
        os.fsync(file.fileno())
    return Written(tuple(names), data_bytes, len(header) + data_bytes)


def _torch_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _cast(dtype: str, cast_to: str | None) -> str:
    return cast_to if cast_to is not None and dtype in _CAST_FROM else dtype


def _write_tensor(file: BinaryIO, name: str, tensor: Any, dtype: str, buffer: bytearray, source: str) -> None:
    """Copy a tensor through the buffer: that makes it contiguous and casts it."""
    import torch

    wanted = getattr(torch, _NAMES[dtype])
    room = torch.frombuffer(buffer, dtype=torch.uint8)
    for part in _parts(tensor, _CHUNK_BYTES // max(wanted.itemsize, tensor.element_size())):
        size = part.numel() * wanted.itemsize
        target = room[:size].view(wanted).view(part.shape)
        target.copy_(part)
        if wanted != tensor.dtype and bool((target.isinf() & part.isfinite()).any()):
            largest = part.abs().max().item()
            raise ConversionRefused(
                source, [f"{name} holds {largest:g}, which is infinite as {dtype}: take another dtype"]
            )
        _write(file, memoryview(buffer)[:size])


def _parts(tensor: Any, elements: int) -> Iterator[Any]:
    """Cut a tensor into views of at most so many elements, in row-major order."""
    if tensor.numel() == 0:
        return
    if tensor.numel() <= elements:
        yield tensor
        return
    row = tensor.numel() // tensor.shape[0]
    if row > elements:
        for inner in tensor:
            yield from _parts(inner, elements)
        return
    step = elements // row
    for start in range(0, tensor.shape[0], step):
        yield tensor[start : start + step]


def _write(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
