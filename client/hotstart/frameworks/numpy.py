"""Arrays of numpy. It lacks some dtypes of Safetensors: ``ml_dtypes`` has most of those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hotstart.wire.safetensors import TensorInfo

from .choice import UnsupportedDtype

if TYPE_CHECKING:
    import numpy

__all__ = ["NumpyFramework"]

_NATIVE: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
        "C64": "<c8",
    }
)
# F4 and F6 are not here: ml_dtypes spreads each element over a byte of its own, the file packs them.
_BY_ML_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "BF16": "bfloat16",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
    }
)


class NumpyFramework:
    """Makes ``numpy.ndarray``."""

    name = "numpy"

    def check(self, infos: Iterable[TensorInfo]) -> None:
        """See ``Framework.check``."""
        has_ml_dtypes = find_spec("ml_dtypes") is not None
        for info in infos:
            if info.dtype in _NATIVE or (has_ml_dtypes and info.dtype in _BY_ML_DTYPES):
                continue
            instead = "use framework='torch', or raw=True for its bytes as uint8"
            if info.dtype in _BY_ML_DTYPES:
                instead = f"pip install ml_dtypes (hotstart[numpy] brings it), {instead}"
            raise UnsupportedDtype(info.name, info.dtype, "numpy", instead)

    def tensor(self, info: TensorInfo, data: memoryview) -> numpy.ndarray[Any, Any]:
        """See ``Framework.tensor``."""
        import numpy

        dtype = self._dtype(info)
        if not len(data):
            return numpy.empty(info.shape, dtype)
        array: numpy.ndarray[Any, Any] = numpy.ndarray(info.shape, dtype, buffer=data)
        return array if array.flags.aligned else array.copy()

    def raw(self, data: memoryview) -> numpy.ndarray[Any, Any]:
        """See ``Framework.raw``."""
        import numpy

        return numpy.ndarray((len(data),), numpy.uint8, buffer=data) if len(data) else numpy.empty(0, "u1")

    def _dtype(self, info: TensorInfo) -> numpy.dtype[Any]:
        import numpy

        native = _NATIVE.get(info.dtype)
        if native is not None:
            return numpy.dtype(native)
        self.check([info])
        import ml_dtypes

        dtype: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, _BY_ML_DTYPES[info.dtype]))
        return dtype
