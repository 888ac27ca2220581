"""Staging: files received or read into a pinned ring, and copied from there to a device.

One thread owns the device and the plan. It begins a chunk wherever a slot is free; workers receive and check
it (or it is copied from a mapping); whole, it comes back, its copies are issued, and an event says when its
slot is free again. Nobody waits for a slot while holding another, and no copy is waited for but to free one.

The ring is there before the thread has imported torch and pinned it: both happen while bytes arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from hotstart.engine.transfer import Transfer
from hotstart.engine.weights import TensorReady
from hotstart.wire.ranges import ByteRange
from hotstart.wire.safetensors import TensorInfo

from .base import Device, DeviceFailed, Staged
from .incoming import Chunk, ChunkTarget, Incoming
from .packing import pack
from .ring import Ring

__all__ = ["SMALL_BYTES", "Staging"]

# Smaller tensors share memory and copies with their neighbours. From here on torch's allocator cuts memory
# for one from a larger block in a microsecond, so that sharing would save nothing.
SMALL_BYTES = 1024 * 1024
_JOIN_SECONDS = 5.0


def _nothing() -> None:
    pass


class _Parts:
    """A tensor that comes in parts: its memory, and how many bytes are still to be copied."""

    __slots__ = ("left", "memory")

    def __init__(self, memory: Any, left: int) -> None:
        self.memory = memory
        self.left = left


class Staging:
    """Moves files to a device through one transfer, which it completes or fails."""

    def __init__(
        self,
        device: Device,
        transfer: Transfer,
        incoming: Sequence[Incoming],
        shape: Callable[[TensorInfo, Any], Any],
        dtype: Callable[[TensorInfo], str | None],
    ) -> None:
        """Prepare.

        Args:
            device: where to.
            transfer: that stays.
            incoming: the files, in the order in which they are wanted.
            shape: makes the tensor from its bytes on the device, without a copy.
            dtype: that a tensor is cast to on the device; None leaves it as it is.
        """
        self._device = device
        self._transfer = transfer
        self._incoming = incoming
        self._shape = shape
        self._dtype = dtype
        slots = sum(-(-item.file.size // device.slot_bytes) for item in incoming)
        self._ring = Ring(max(1, min(slots, device.ring_bytes // device.slot_bytes)), device.slot_bytes)
        # None once nobody takes chunks any more: one that is late must not keep the ring.
        self._whole: SimpleQueue[Chunk | None] | None = SimpleQueue()
        self._parts: dict[tuple[int, int], _Parts] = {}
        self._kept_back: dict[int, list[TensorReady]] = {}
        self._ring_tensor: Any = None
        self._thread = threading.Thread(target=self._run, name="hotstart-staging", daemon=True)

    def start(self) -> None:
        """Ask for the first bytes, and go on in a thread.

        Raises:
            AllSourcesFailed: there is no source to begin with.
        """
        self._transfer.on_end = lambda: self._put(None)
        self._begin_received()
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, which ends soon after the transfer."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            self._stage()
        except RuntimeError as error:
            # What torch raises, whether memory is full or a call failed.
            failed = DeviceFailed(self._device.name, str(error))
            failed.__cause__ = error
            self._transfer.fail(failed)
        except BaseException as error:  # noqa: BLE001 - a thread's end: whoever waits gets it
            self._transfer.fail(error)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Let go of the ring when the transfer is over.

        We and the transfer know each other: until garbage is collected, nothing else would.
        """
        self._transfer.on_end = _nothing
        self._incoming = ()
        self._whole = None
        self._ring_tensor = None
        del self._ring

    def _stage(self) -> None:
        import torch

        self._device.open()
        unpin = self._device.pin(self._ring.memory)
        try:
            self._ring_tensor = torch.frombuffer(self._ring.memory, dtype=torch.uint8)
            for index, incoming in enumerate(self._incoming):
                self._announce(index, incoming)
            while not all(incoming.is_done for incoming in self._incoming):
                self._begin_received()
                self._begin_mapped()
                if not self._take_in_next():
                    return
        finally:
            # No memory is unpinned, or used for anything else, while it is copied from, also where copies
            # of a chunk were issued before one failed.
            try:
                self._device.record().wait()
            finally:
                unpin()
        self._transfer.complete()

    def _take_in_next(self) -> bool:
        """Dispatch what is whole, or wait for a slot or for bytes; tell whether the transfer goes on."""
        whole = self._whole
        # Let go of by this thread alone, when it ends.
        assert whole is not None
        try:
            chunk = whole.get_nowait()
        except Empty:
            # A copy takes less than a millisecond; bytes that come meanwhile would wait behind it anyway.
            if self._ring.wait() or all(incoming.is_done for incoming in self._incoming):
                return True
            chunk = whole.get()
        if chunk is None:
            return False
        self._take_in(chunk)
        return True

    # Beginning chunks.

    def _begin_received(self) -> None:
        """Ask for bytes as far as there are slots for them."""
        for incoming in self._incoming:
            while incoming.mapped is None and incoming.has_more:
                slot = self._ring.take()
                if slot is None:
                    return
                source = self._transfer.chain.current(incoming.file.identity())
                twin = incoming.twin_at(source)
                base, ranges = incoming.next_ranges(frames=twin is not None)
                chunk = Chunk(incoming, slot, base, ranges)
                self._transfer.start([ChunkTarget(chunk, twin, self._arrived)])

    def _begin_mapped(self) -> None:
        """Copy from mappings as far as there are slots; copying releases the GIL and uses several CPUs."""
        import torch

        for incoming in self._incoming:
            while incoming.mapped is not None and incoming.has_more:
                slot = self._ring.take()
                if slot is None:
                    return
                base, ranges = incoming.next_ranges(frames=False)
                for part in ranges:
                    mapped = torch.frombuffer(incoming.mapped[part.start : part.stop], dtype=torch.uint8)
                    start = slot.start + part.start - base
                    self._ring_tensor[start : start + len(part)].copy_(mapped)
                self._take_in(Chunk(incoming, slot, base, ranges))

    def _arrived(self, chunk: Chunk) -> None:
        """Take a chunk from the worker that completed it."""
        if chunk.incoming.learn(chunk):
            self._transfer.wake()
        self._put(chunk)

    def _put(self, chunk: Chunk | None) -> None:
        if (whole := self._whole) is not None:
            whole.put(chunk)

    # Dispatching.

    def _take_in(self, chunk: Chunk) -> None:
        incoming = chunk.incoming
        was_known = incoming.header is not None
        chunks = [chunk] if incoming.mapped is not None else incoming.take_in(chunk)
        index = self._incoming.index(incoming)
        if not was_known and incoming.header is not None:
            self._announce(index, incoming)
        for item in chunks:
            self._dispatch(index, item)
        if incoming.is_done:
            for ready in self._kept_back.pop(index, ()):
                self._transfer.deliver(ready)

    def _announce(self, index: int, incoming: Incoming) -> None:
        """Deliver the tensors that no bytes are waited for: empty ones."""
        if incoming.header is None:
            return
        empty = [(info, self._device.empty(0)) for info in incoming.empty]
        self._deliver(index, incoming, empty)

    def _dispatch(self, index: int, chunk: Chunk) -> None:
        """Issue the copies of a chunk, and deliver the tensors that they complete."""
        incoming = chunk.incoming
        whole: list[tuple[TensorInfo, Any]] = []
        copies = 0
        for part in chunk.ranges if incoming.header is not None else ():
            first, infos = incoming.overlapping(part)
            small: list[TensorInfo] = []
            for number, info in enumerate(infos, first):
                place = incoming.place(info)
                inside = place.intersection(part)
                if inside == place and len(place) < SMALL_BYTES:
                    small.append(info)
                    continue
                parts = self._parts.get((index, number))
                if parts is None:
                    parts = _Parts(self._device.empty(len(place)), len(place))
                    self._parts[index, number] = parts
                self._copy(chunk, inside, parts.memory, inside.start - place.start)
                copies += 1
                parts.left -= len(inside)
                if not parts.left:
                    del self._parts[index, number]
                    whole.append((info, parts.memory))
            if small:
                packing = pack([incoming.place(info) for info in small])
                memory = self._device.empty(packing.size)
                for run, start in packing.runs:
                    self._copy(chunk, run, memory, start)
                    copies += 1
                whole += [
                    (info, memory[start : start + info.stop - info.start])
                    for info, start in zip(small, packing.starts, strict=True)
                ]
        incoming.outstanding -= 1
        if copies:
            self._deliver(index, incoming, whole)
            self._ring.give_back_after(chunk.slot, self._device.record())
        else:
            self._ring.give_back(chunk.slot)

    def _copy(self, chunk: Chunk, wanted: ByteRange, memory: Any, start: int) -> None:
        source = chunk.slot.start + wanted.start - chunk.base
        self._device.copy(
            memory[start : start + len(wanted)], self._ring_tensor[source : source + len(wanted)]
        )

    def _deliver(self, index: int, incoming: Incoming, whole: Sequence[tuple[TensorInfo, Any]]) -> None:
        """Hand out tensors behind an event after their copies and casts."""
        if not whole:
            return
        made: list[tuple[TensorInfo, Any]] = []
        for info, memory in whole:
            tensor = self._shape(info, memory)
            dtype = self._dtype(info)
            made.append((info, tensor if dtype is None else self._device.cast(tensor, dtype)))
        event = self._device.record()
        for info, tensor in made:
            staged = Staged(self._device, tensor, event)
            ready = TensorReady(incoming.file.path, info, memoryview(b""), staged)
            if incoming.is_full:
                self._kept_back.setdefault(index, []).append(ready)
            else:
                self._transfer.deliver(ready)
