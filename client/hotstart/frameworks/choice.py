"""Which framework's tensors are made, what it cannot represent, and what is missing to use it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Protocol

from hotstart.engine.planning import InvalidOption
from hotstart.wire.errors import HotstartError
from hotstart.wire.safetensors import TensorInfo

__all__ = [
    "Framework",
    "MissingPackage",
    "UnsupportedDtype",
    "UnsupportedHost",
    "find_framework",
]

# As the safetensors library abbreviates them.
_NAMES = {"numpy": "numpy", "np": "numpy", "torch": "torch", "pt": "torch"}


class MissingPackage(HotstartError):
    """Something was asked for that takes a package which is not installed.

    Attributes:
        package: its name.
    """

    def __init__(self, package: str, asked: str | None = None, extra: str | None = None) -> None:
        """Say what is missing.

        Args:
            package: its name.
            asked: what was asked for; None is the package's tensors.
            extra: of hotstart that brings the package; None is the one of its name.
        """
        self.package = package
        super().__init__(
            f"{asked or f'{package} tensors'} were asked for, but {package} is not installed: "
            f"pip install 'hotstart[{extra or package}]'"
        )


class UnsupportedDtype(HotstartError):
    """A framework cannot represent a tensor.

    Attributes:
        tensor: its name.
        dtype: as in the Safetensors header.
        framework: its name.
    """

    def __init__(self, tensor: str, dtype: str, framework: str, instead: str) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.framework = framework
        super().__init__(f"tensor {tensor!r} is {dtype}, which {framework} cannot represent: {instead}")


class UnsupportedHost(HotstartError):
    """Tensors are stored little-endian, and this host is not."""

    def __init__(self) -> None:
        super().__init__("this host is big-endian; hotstart runs on little-endian hosts only")


class Framework(Protocol):
    """Makes tensors; nothing is imported until the first one is made."""

    name: str

    def check(self, infos: Iterable[TensorInfo]) -> None:
        """Make sure, without importing the framework, that it can represent the tensors.

        Raises:
            UnsupportedDtype: it cannot; says what to do instead.
        """

    def tensor(self, info: TensorInfo, data: memoryview) -> Any:
        """Return a tensor that is a view of data, or of a copy where data is not aligned for its type.

        Args:
            info: dtype and shape.
            data: exactly its bytes, writeable; lives as long as the tensor.
        """

    def raw(self, data: memoryview) -> Any:
        """Return the bytes as a tensor of uint8 with one axis."""


def find_framework(name: str) -> Framework:
    """Return the framework of this name.

    Raises:
        InvalidOption: there is none of this name.
        MissingPackage: it is not installed.
        UnsupportedHost: this host is big-endian.
    """
    package = _NAMES.get(name)
    if package is None:
        raise InvalidOption("framework", name, "'numpy' ('np') or 'torch' ('pt')")
    if sys.byteorder != "little":
        raise UnsupportedHost
    if find_spec(package) is None:
        raise MissingPackage(package)
    if package == "numpy":
        from .numpy import NumpyFramework

        return NumpyFramework()
    from .torch import TorchFramework

    return TorchFramework()
