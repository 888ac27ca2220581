"""CUDA through torch: the only module that calls it.

The ring is pinned by ``cudaHostRegister`` rather than taken from torch's allocator of pinned memory: bytes
can be received into it before torch is imported, it has exactly the size that was asked for, and it goes back
to the system when the load ends. Copies from registered memory are as asynchronous as from any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotstart.engine.planning import InvalidOption

from .base import RING_BYTES, SLOT_BYTES, Device, DeviceFailed, Event

__all__ = ["CudaDevice", "pin"]

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU of the process


def pin(memory: memoryview) -> Callable[[], None]:
    """Pin memory for the current CUDA device; return what unpins it.

    Raises:
        InvalidOption: there is no CUDA here.
        DeviceFailed: the driver refuses.
    """
    torch = _import_torch("pinned")
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    runtime = torch.cuda.cudart()
    # Where a call finds no context, it makes one on the thread's current GPU, which takes memory there.
    index = torch.cuda.current_device()
    status = int(runtime.cudaHostRegister(address, len(memory), _PORTABLE))
    if status:
        what = f"pinning {len(memory) >> 20} MiB of memory gave CUDA error {status}"
        raise DeviceFailed("pinned memory", f"{what}; is that much memory free, and may it be locked?")

    def unpin() -> None:
        with torch.cuda.device(index):
            runtime.cudaHostUnregister(address)

    return unpin


class CudaDevice(Device):
    """A GPU of torch's. May be given as ``device=…`` for a ring of another size.

    Memory comes from the pool of the GPU's default stream, where most users' tensors come from, so that what
    they drop can be used again for whatever they do next.
    """

    def __init__(self, index: int = 0, *, ring_bytes: int = RING_BYTES, slot_bytes: int = SLOT_BYTES) -> None:
        """Prepare; touches no device.

        Args:
            index: of the GPU.
            ring_bytes: see ``Device``.
            slot_bytes: see ``Device``.
        """
        super().__init__(f"cuda:{index}", ring_bytes, slot_bytes)
        self._index = index
        self._torch: Any = None

    def open(self) -> None:
        if self._torch is not None:
            return
        torch = _import_torch(self.name)
        count = torch.cuda.device_count()
        if self._index >= count:
            names = ", ".join(f"cuda:{index}" for index in range(count))
            raise InvalidOption("device", self.name, f"one that is here: {names}")
        self._stream = torch.cuda.Stream(device=self.name)
        self._default = torch.cuda.default_stream(self.name)
        self._torch = torch

    def pin(self, memory: memoryview) -> Callable[[], None]:
        with self._torch.cuda.device(self._index):
            return pin(memory)

    def empty(self, size: int) -> Any:
        torch = self._torch
        with torch.cuda.stream(self._default):
            memory = torch.empty(size, dtype=torch.uint8, device=self.name)
        # Whoever had the memory before may have work queued on it; and if it is dropped while copies are
        # under way, it must not be used again before they end.
        self._stream.wait_stream(self._default)
        memory.record_stream(self._stream)
        return memory

    def copy(self, destination: Any, source: Any) -> None:
        with self._torch.cuda.stream(self._stream):
            destination.copy_(source, non_blocking=True)

    def cast(self, tensor: Any, dtype: str) -> Any:
        kind = getattr(self._torch, dtype)
        result = self.empty(tensor.numel() * kind.itemsize).view(kind).reshape(tensor.shape)
        with self._torch.cuda.stream(self._stream):
            result.copy_(tensor)
        return result

    def record(self) -> Event:
        # Blocking, so that a thread that waits leaves its CPU to those that receive.
        event = self._torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return _CudaEvent(event)

    def hand_over(self, tensor: Any, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        current = self._torch.cuda.current_stream(self.name)
        current.wait_event(event.event)
        if current != self._default and tensor.numel():
            tensor.record_stream(current)


class _CudaEvent:
    def __init__(self, event: Any) -> None:
        self.event = event

    def is_done(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


def _import_torch(device: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "finds no usable GPU"
        raise InvalidOption(
            "device",
            device,
            f"'cpu', since torch {torch.__version__} {built}; for a GPU install a CUDA build of torch "
            "and a driver, and pass the GPU into the container",
        )
    return torch
