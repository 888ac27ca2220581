"""What ``device=…`` means."""

from __future__ import annotations

import re
import sys
from typing import TypeAlias

from hotstart.engine.planning import InvalidOption

from .base import Device
from .pinned import PinnedMemory

__all__ = ["Destination", "find_destination"]

# None is plain host memory.
Destination: TypeAlias = Device | PinnedMemory | None

_CUDA = re.compile(r"cuda(?::(\d{1,3}))?", re.ASCII)
_EXPECTED = "'cpu', 'pinned', 'cuda' or 'cuda:0'"


def find_destination(device: object, framework: str) -> Destination:
    """Return where tensors are wanted, without importing torch.

    Whether a GPU is there is looked for when it is first used, while bytes are on their way already.

    Args:
        device: a name, a ``torch.device``, or a ``Device`` or ``PinnedMemory`` that is made already.
        framework: the name of one.

    Raises:
        InvalidOption: it is none of these, or the framework has no tensors there.
    """
    found = device if isinstance(device, Device | PinnedMemory) else _parse(device)
    if found is not None and framework != "torch":
        raise InvalidOption("device", device, f"'cpu' with framework={framework!r}, or framework='torch'")
    return found


def _parse(device: object) -> Destination:
    name = str(device)
    if name == "cpu":
        return None
    if name == "pinned":
        from .cuda import pin

        return PinnedMemory(pin)
    match = _CUDA.fullmatch(name)
    if match is None:
        raise InvalidOption("device", device, _EXPECTED)
    from .cuda import CudaDevice

    return CudaDevice(_current_gpu() if match[1] is None else int(match[1]))


def _current_gpu() -> int:
    """Return the GPU that ``torch.cuda.set_device`` chose in this thread; without torch, the first."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    # In another thread's import of torch it may be half there.
    if cuda is None or not hasattr(cuda, "is_initialized") or not cuda.is_initialized():
        return 0
    return int(cuda.current_device())
