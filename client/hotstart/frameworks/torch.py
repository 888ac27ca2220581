"""Tensors of torch, in host memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import TensorInfo

from .choice import UnsupportedDtype

__all__ = ["TorchFramework"]

# F6 is in no torch yet. A torch older than a dtype lacks its name.
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "F4": "float4_e2m1fn_x2",
        "U8": "uint8",
        "I8": "int8",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "U16": "uint16",
        "I16": "int16",
        "F16": "float16",
        "BF16": "bfloat16",
        "U32": "uint32",
        "I32": "int32",
        "F32": "float32",
        "C64": "complex64",
        "U64": "uint64",
        "I64": "int64",
        "F64": "float64",
    }
)
# torch counts two packed F4 as one element.
_F4_PER_ELEMENT = 2
_INSTEAD = "use raw=True for its bytes as uint8"


class TorchFramework:
    """Makes ``torch.Tensor``."""

    name = "torch"

    def check(self, infos: Iterable[TensorInfo]) -> None:
        """See ``Framework.check``."""
        for info in infos:
            if info.dtype not in _TYPES:
                raise UnsupportedDtype(info.name, info.dtype, "torch", _INSTEAD)
            if info.dtype == "F4" and info.shape and info.shape[-1] % _F4_PER_ELEMENT:
                raise UnsupportedDtype(info.name, info.dtype, "torch with an odd last axis", _INSTEAD)

    def tensor(self, info: TensorInfo, data: memoryview) -> Any:
        """See ``Framework.tensor``."""
        import torch

        self.check([info])
        dtype = getattr(torch, _TYPES[info.dtype], None)
        if dtype is None:
            raise UnsupportedDtype(info.name, info.dtype, f"torch {torch.__version__}", _INSTEAD)
        shape = info.shape
        if info.dtype == "F4":
            shape = (*shape[:-1], shape[-1] // _F4_PER_ELEMENT)
        if not len(data):
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(data, dtype=torch.uint8)
        if flat.data_ptr() % max(1, BITS[info.dtype] // 8):
            flat = flat.clone()
        return flat.view(dtype).reshape(shape)

    def raw(self, data: memoryview) -> Any:
        """See ``Framework.raw``."""
        import torch

        return torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
