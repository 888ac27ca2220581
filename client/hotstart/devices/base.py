"""What a device must be able to do, so that everything else can be run and tested without one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from hotstart.engine.planning import InvalidOption
from hotstart.wire.errors import HotstartError
from hotstart.wire.pieces import PIECE_BYTES

__all__ = ["RING_BYTES", "SLOT_BYTES", "Device", "DeviceFailed", "Event", "Pin", "Staged"]

# Others measured that 64 to 256 MiB in slots of 16 to 32 MiB overlap as well as any amount; pinning costs
# 16 to 32 ms at this size.
RING_BYTES = 64 * 1024 * 1024
SLOT_BYTES = 16 * 1024 * 1024
# A frame of 4 MiB may lie across two pieces, and both must fit when its source is replaced by a checked one.
_FEWEST_PIECES = 2

# Pins memory and returns what unpins it.
Pin: TypeAlias = Callable[[memoryview], Callable[[], None]]


class DeviceFailed(HotstartError):
    """A device is there, and could not do what it was asked to: its memory is full, or a call failed.

    Attributes:
        device: its name.
        reason: what it says.
    """

    def __init__(self, device: str, reason: str) -> None:
        self.device = device
        self.reason = reason
        super().__init__(f"loading to {device} failed: {reason}")


class Event(Protocol):
    """A point in a device's stream. It is done when everything that was issued before it is."""

    def is_done(self) -> bool:
        """Tell, without waiting."""

    def wait(self) -> None:
        """Block this thread, and no other, until it is done."""


class Device(ABC):
    """A device with one copy stream: what is issued is done later, in the order in which it was issued.

    All but ``hand_over`` is called by one thread per load. Tensors are torch's.

    Attributes:
        name: ``cuda:0``.
        ring_bytes: of the pinned ring, a power of two.
        slot_bytes: of one slot of it, a power of two; the ring has at least two.
    """

    def __init__(self, name: str, ring_bytes: int = RING_BYTES, slot_bytes: int = SLOT_BYTES) -> None:
        """Check the sizes; touches no device.

        Raises:
            InvalidOption: the sizes are not possible.
        """
        if slot_bytes < _FEWEST_PIECES * PIECE_BYTES or slot_bytes & (slot_bytes - 1):
            raise InvalidOption("slot_bytes", slot_bytes, "a power of two of at least 8 MiB")
        if ring_bytes < 2 * slot_bytes or ring_bytes & (ring_bytes - 1):
            raise InvalidOption("ring_bytes", ring_bytes, f"a power of two of at least {2 * slot_bytes}")
        self.name = name
        self.ring_bytes = ring_bytes
        self.slot_bytes = slot_bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, ring of {self.ring_bytes >> 20} MiB>"

    @abstractmethod
    def open(self) -> None:
        """Import what it takes and make sure that the device is there; may take seconds. Idempotent.

        Raises:
            InvalidOption: there is no such device; says what was found.
        """

    @abstractmethod
    def pin(self, memory: memoryview) -> Callable[[], None]:
        """Pin memory that bytes may be arriving in already; return what unpins it."""

    @abstractmethod
    def empty(self, size: int) -> Any:
        """Return uninitialized memory of the device, a tensor of uint8 that is aligned to 256 bytes."""

    @abstractmethod
    def copy(self, destination: Any, source: Any) -> None:
        """Issue a copy from pinned memory. Source must stay as it is until a later event is done."""

    @abstractmethod
    def cast(self, tensor: Any, dtype: str) -> Any:
        """Issue a cast; return the tensor that will hold the result, in memory of its own."""

    @abstractmethod
    def record(self) -> Event:
        """Return an event at the end of what was issued so far."""

    @abstractmethod
    def hand_over(self, tensor: Any, event: Event) -> None:
        """Put what the calling thread does next with a tensor after the event, without waiting for it."""


class Staged(NamedTuple):
    """A tensor of a device whose last copy was issued.

    Attributes:
        device: that it lies on.
        tensor: in its final form.
        event: when its bytes are there.
    """

    device: Device
    tensor: Any
    event: Event

    def take(self) -> Any:
        """Return the tensor for use by the calling thread."""
        self.device.hand_over(self.tensor, self.event)
        return self.tensor
