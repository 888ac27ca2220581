"""Tensors of torch: in host memory, and on devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from hotstart.engine.planning import InvalidOption
from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import TensorInfo

from .choice import UnsupportedDtype

__all__ = ["TorchFramework", "cast", "cast_name", "is_cast"]

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


# What a cast is made from and to. Narrower floats are quantized: without their scales they mean nothing.
_CAST_FROM = frozenset({"F64", "F32", "F16", "BF16"})
_CAST_TO = ("float64", "float32", "float16", "bfloat16")


def cast_name(dtype: object) -> str:
    """Return the name of a dtype that tensors can be cast to, without importing torch.

    Args:
        dtype: ``"float16"`` or ``torch.float16``.

    Raises:
        InvalidOption: it is no floating type of 16 bits or more.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _CAST_TO:
        raise InvalidOption("dtype", dtype, f"None, or torch.{', torch.'.join(_CAST_TO)}, or its name")
    return name


def is_cast(info: TensorInfo) -> bool:
    """Tell whether a tensor is of a type that casts are made from."""
    return info.dtype in _CAST_FROM


def cast(tensor: Any, dtype: str) -> Any:
    """Return a tensor in host memory as another dtype, by its name."""
    import torch

    return tensor.to(getattr(torch, dtype))


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
        flat = self.raw(data)
        if flat.data_ptr() % max(1, BITS[info.dtype] // 8):
            flat = flat.clone()
        return self.shaped(info, flat)

    def shaped(self, info: TensorInfo, flat: Any) -> Any:
        """Return a view, with its dtype and shape, of a tensor's bytes, which are aligned for it.

        Args:
            info: dtype and shape.
            flat: a tensor of uint8, on any device.
        """
        dtype, shape = self.form(info)
        return flat.view(dtype).reshape(shape)

    def form(self, info: TensorInfo) -> tuple[Any, tuple[int, ...]]:
        """Return the dtype and the shape that a tensor has in torch.

        Raises:
            UnsupportedDtype: it cannot be represented.
        """
        import torch

        self.check([info])
        dtype = getattr(torch, _TYPES[info.dtype], None)
        if dtype is None:
            raise UnsupportedDtype(info.name, info.dtype, f"torch {torch.__version__}", _INSTEAD)
        shape = tuple(info.shape)
        if info.dtype == "F4" and shape:
            shape = (*shape[:-1], shape[-1] // _F4_PER_ELEMENT)
        return dtype, shape

    def raw(self, data: memoryview) -> Any:
        """See ``Framework.raw``."""
        import torch

        return torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
