"""Host memory that is pinned while bytes arrive in it, and unpinned before it goes back to the system."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from hotstart.buffers import HostBuffer

from .base import Pin

__all__ = ["PinnedMemory", "copy_parts"]

# As torch aligns what it allocates on a CPU.
_ALIGNMENT = 64


class PinnedMemory:
    """Gives memory of exactly the size asked for, pinned by a thread of its own.

    Pinning costs a quarter to half a second a GiB, as long as many a network takes to bring it; done after
    the other, they would add up. Memory that is being pinned may be written.
    """

    def __init__(self, pin: Pin) -> None:
        """Prepare; pins nothing yet.

        Args:
            pin: pins memory and returns what unpins it; called in threads.
        """
        self._pin = pin
        self._lock = threading.Lock()
        self._running: list[threading.Thread] = []
        self._error: BaseException | None = None

    def allocate(self, size: int) -> HostBuffer:
        """Return memory at once, and begin to pin it. Its last view's death unpins it."""
        buffer = HostBuffer(size, discards=False)
        if size:
            thread = threading.Thread(target=self._run, args=(buffer,), name="hotstart-pin", daemon=True)
            with self._lock:
                self._running.append(thread)
            thread.start()
        return buffer

    def settle(self) -> None:
        """Wait until all memory given out so far is pinned.

        Raises:
            InvalidOption: there is no device to pin memory for.
            DeviceFailed: memory cannot be pinned.
        """
        with self._lock:
            running, self._running = self._running, []
        for thread in running:
            thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, buffer: HostBuffer) -> None:
        try:
            buffer.on_release(_unless_exiting(self._pin(buffer.view)))
        except BaseException as error:  # noqa: BLE001 - the end of a thread: whoever waits gets it
            self._error = error


def copy_parts(parts: Sequence[memoryview], memory: PinnedMemory) -> list[memoryview]:
    """Copy what cannot be pinned where it lies (a mapped file) into pinned memory of its own."""
    import torch

    starts: list[int] = []
    size = 0
    for part in parts:
        starts.append(size)
        size += -(-len(part) // _ALIGNMENT) * _ALIGNMENT
    view = memory.allocate(size).view
    copies = [view[start : start + len(part)] for start, part in zip(starts, parts, strict=True)]
    for copy, part in zip(copies, parts, strict=True):
        if len(part):
            # By torch, which uses several CPUs and releases the GIL.
            torch.frombuffer(copy, dtype=torch.uint8).copy_(torch.frombuffer(part, dtype=torch.uint8))
    return copies


def _unless_exiting(unpin: Callable[[], None]) -> Callable[[], None]:
    """Leave it to the system to unpin what lives as long as the process: its driver may be gone before."""

    def release() -> None:
        if not sys.is_finalizing():
            unpin()

    return release
