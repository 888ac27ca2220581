"""A stand-in for CUDA in plain memory, under torch's own names: as much of it as we call, and as strict.

Work on a stream is done when somebody waits for it, and in no other order than streams and events give. What
CUDA would allow and then do slowly or wrongly is an error here: a copy that is called asynchronous from
memory that is not pinned, work on a stream that the memory is not known to, memory unpinned under a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

__all__ = ["StandIn"]

_Tensor: Any = torch.Tensor


class Stream:
    """A queue of work, done up to a position when it must be."""

    def __init__(self, device: object = None) -> None:
        self.device = device
        self.issued: list[Callable[[], object]] = []
        self.done = 0
        self._lock = threading.RLock()

    def issue(self, work: Callable[[], object]) -> None:
        self.issued.append(work)

    def run(self, position: int) -> None:
        with self._lock:
            while self.done < position:
                work = self.issued[self.done]
                self.done += 1
                work()

    def wait_stream(self, other: Stream) -> None:
        position = len(other.issued)
        self.issue(lambda: other.run(position))

    def wait_event(self, event: Event) -> None:
        self.issue(event.synchronize)

    def synchronize(self) -> None:
        self.run(len(self.issued))


class Event:
    """A position in a stream."""

    def __init__(self, *, blocking: bool) -> None:
        assert blocking, "a thread that waits must leave its CPU to others"

    def record(self, stream: Stream) -> None:
        self._stream, self._position = stream, len(stream.issued)

    def query(self) -> bool:
        return self._stream.done >= self._position

    def synchronize(self) -> None:
        self._stream.run(self._position)


class StandIn:
    """One GPU, put in the place of torch's CUDA for a test.

    Attributes:
        pinned: bytes by address.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pinned: dict[int, int] = {}
        self.default = Stream("cuda:0")
        self.streams = [self.default]
        self._thread = threading.local()
        self._empty = torch.empty
        for name in ("stream", "default_stream", "current_stream", "device", "device_count", "cudart"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "Stream", self.new_stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch, "empty", self.empty)

    def new_stream(self, device: object = None) -> Stream:
        stream = Stream(device)
        self.streams.append(stream)
        return stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before = self.current_stream()
        self._thread.current = stream
        try:
            yield
        finally:
            self._thread.current = before

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        assert index == 0
        yield

    def device_count(self) -> int:
        return 1

    def default_stream(self, device: object = None) -> Stream:
        return self.default

    def current_stream(self, device: object = None) -> Stream:
        found: Stream = getattr(self._thread, "current", self.default)
        return found

    def synchronize(self) -> None:
        for stream in self.streams:
            stream.synchronize()

    def cudart(self) -> StandIn:
        return self

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 1
        self.pinned[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0

    def empty(self, *shape: Any, device: object = "cpu", **options: Any) -> Any:
        memory = self._empty(*shape, **options)
        if device == "cpu":
            return memory
        assert device == "cuda:0"
        on_gpu = memory.as_subclass(OnGpu)
        on_gpu.storage_of = _Storage(self, self.current_stream())
        return on_gpu

    def check_pinned(self, tensor: Any) -> None:
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        assert any(at <= start and stop <= at + size for at, size in self.pinned.items()), "not pinned"


class _Storage:
    def __init__(self, gpu: StandIn, stream: Stream) -> None:
        self.gpu = gpu
        self.streams = {stream}


class OnGpu(_Tensor):  # type: ignore[misc]
    """A tensor that is written by streams only. Views know the storage that they are of."""

    storage_of: _Storage

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        origin = next((arg for arg in args if isinstance(arg, OnGpu)), None)
        if isinstance(result, OnGpu) and origin is not None and "storage_of" in origin.__dict__:
            result.storage_of = origin.storage_of
        return result

    def record_stream(self, stream: Stream) -> None:
        self.storage_of.streams.add(stream)

    def copy_(self, source: Any, non_blocking: bool = False) -> Any:
        storage = self.storage_of
        stream = storage.gpu.current_stream()
        assert stream in storage.streams, "the memory may be used again while this stream writes to it"
        if isinstance(source, OnGpu):
            assert stream in source.storage_of.streams, "the memory may be used again while it is read"
        else:
            assert non_blocking
            storage.gpu.check_pinned(source)

        def copy() -> None:
            if not isinstance(source, OnGpu):
                storage.gpu.check_pinned(source)
            target, origin = self.as_subclass(_Tensor), source.as_subclass(_Tensor)
            target.copy_(origin)

        stream.issue(copy)
        return self
