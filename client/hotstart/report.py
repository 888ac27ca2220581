"""The report of a load: when what happened, what came from where, and what was done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The time line of opening a reference and loading it.

    Times are in seconds. Those of opening count from when it began; the others from when the load began,
    which is later where a model was opened first and loaded afterwards.

    Attributes:
        reference: with the version that it meant, and the file, if it named one.
        version: that version.
        opened_by: the source that answered.
        connect_seconds: connecting to it; None where nothing had to be connected.
        open_seconds: all of opening, connecting included.
        first_byte_seconds: until the first byte of weights; None where none had to be moved.
        first_tensor_seconds: until the first tensor was whole and checked; None where there is none.
        last_tensor_seconds: until all were.
        tensors: how many.
        tensor_bytes: their size.
        received_bytes: by the name of the source they came from; less than tensor_bytes where they were
        mapped
            or came compressed.
        representations: ``mapped``, ``identity``, ``zstd`` and ``planes``, those of them that were used.
        compression: what was picked last of plain bytes and twins, and why; empty where nothing was received.
        verification: what was checked: ``none``, ``pieces``, ``frames`` (of a twin), ``full``, with a remark
            where the manifest lacks what it takes.
        retries: why something was asked for again, in order.
        failovers: why sources were given up, in order.
    """

    reference: str
    version: str
    opened_by: str
    connect_seconds: float | None
    open_seconds: float
    first_byte_seconds: float | None
    first_tensor_seconds: float | None
    last_tensor_seconds: float
    tensors: int
    tensor_bytes: int
    received_bytes: Mapping[str, int]
    representations: tuple[str, ...]
    compression: str
    verification: str
    retries: tuple[str, ...]
    failovers: tuple[str, ...]

    @property
    def gigabytes_per_second(self) -> float:
        """Tensor bytes by the time of the load, in 10^9 bytes a second."""
        return self.tensor_bytes / 1e9 / self.last_tensor_seconds if self.last_tensor_seconds else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "reference": self.reference,
            "version": self.version,
            "opened_by": self.opened_by,
            "connect_seconds": _rounded(self.connect_seconds),
            "open_seconds": _rounded(self.open_seconds),
            "first_byte_seconds": _rounded(self.first_byte_seconds),
            "first_tensor_seconds": _rounded(self.first_tensor_seconds),
            "last_tensor_seconds": _rounded(self.last_tensor_seconds),
            "tensors": self.tensors,
            "tensor_bytes": self.tensor_bytes,
            "gigabytes_per_second": round(self.gigabytes_per_second, 3),
            "received_bytes": dict(self.received_bytes),
            "representations": list(self.representations),
            "compression": self.compression,
            "verification": self.verification,
            "retries": list(self.retries),
            "failovers": list(self.failovers),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.reference}, opened by {self.opened_by}",
            _line("connect", self.connect_seconds),
            _line("open", self.open_seconds),
            _line("first byte", self.first_byte_seconds),
            _line("first tensor", self.first_tensor_seconds),
            _line("last tensor", self.last_tensor_seconds)
            + f"   {self.tensors} tensors, {format_bytes(self.tensor_bytes)}, "
            f"{self.gigabytes_per_second:.2f} GB/s",
        ]
        came = [f"{format_bytes(size)} from {name}" for name, size in self.received_bytes.items() if size]
        lines.append(
            f"  {', '.join(self.representations) or 'nothing'}: {', '.join(came) or 'no byte moved'}"
        )
        if self.compression:
            lines.append(f"  picked {self.compression}")
        lines.append(f"  verification: {self.verification}")
        lines += [f"  given up: {reason}" for reason in self.failovers]
        lines += [f"  asked again: {reason}" for reason in self.retries]
        return "\n".join(lines)


def format_bytes(size: int) -> str:
    """Return a size as people read it, in powers of ten as links are measured."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _line(name: str, seconds: float | None) -> str:
    return f"  {name:<13}" + ("        –" if seconds is None else f"{seconds * 1000:6.1f} ms")
