"""Pins: versions that an operator keeps whatever retention and the budget say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hotstart.wire import documents as json_documents
from hotstart.wire.errors import FormatError
from hotstart.wire.timestamps import format_timestamp, parse_timestamp
from hotstart_proxy.stores.base import Store

from . import documents

__all__ = ["Pin", "Pins"]

_FORMAT = 1
_WHAT = "pin"


@dataclass(frozen=True, slots=True)
class Pin:
    """One version that is pinned.

    Attributes:
        model: two segments.
        version: its id.
        pinned_at: milliseconds since the epoch, for people.
        blobs: sizes in bytes by content id of what it held when it was set; what it holds now is said by the
            version's manifest, where that is known.
    """

    model: str
    version: str
    pinned_at: int
    blobs: Mapping[str, int]

    def dump(self) -> bytes:
        """Serialize."""
        return json_documents.dump_json(
            {
                "format": _FORMAT,
                "model": self.model,
                "version": self.version,
                "pinned_at": format_timestamp(self.pinned_at),
                "blobs": dict(self.blobs),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Pin:
        """Parse what dump gave.

        Raises:
            FormatError: anything else.
        """
        document = json_documents.load_json(data, _WHAT)
        if document.integer("format") != _FORMAT:
            raise FormatError(_WHAT, f"format {document.integer('format')}: this hotstart reads {_FORMAT}")
        blobs = document.member("blobs")
        return cls(
            document.text("model"),
            document.text("version"),
            parse_timestamp(document.text("pinned_at"), _WHAT),
            {content_id: blobs.integer(content_id) for content_id in blobs.members},
        )


class Pins:
    """The pins of a store, as last read.

    Each is a document of its own, so that of two processes that pin at once none undoes the other's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pins: dict[tuple[str, str], Pin] = {}

    def get(self, model: str, version: str) -> Pin | None:
        """Return a pin, or None."""
        return self._pins.get((model, version))

    def all(self) -> tuple[Pin, ...]:
        """Return all pins."""
        return tuple(self._pins.values())

    def versions(self, model: str) -> frozenset[str]:
        """Return the versions of a model that are pinned."""
        return frozenset(version for name, version in self._pins if name == model)

    async def refresh(self) -> set[str]:
        """Read all pins anew; return the models whose pins have changed.

        Raises:
            StoreError
        """
        found: dict[tuple[str, str], Pin] = {}
        for name in await self._store.documents():
            match documents.place_of(name):
                case documents.Place(model, documents.Kind.PIN, version):
                    pin = await self._read(model, version)
                    if pin is not None:
                        found[model, version] = pin
        changed = found.keys() ^ self._pins.keys()
        self._pins = found
        return {model for model, _ in changed}

    async def look(self, model: str, version: str) -> bool:
        """Read one pin anew; tell whether it is news.

        Raises:
            StoreError
        """
        pin = await self._read(model, version)
        if pin is None:
            return self._pins.pop((model, version), None) is not None
        is_new = (model, version) not in self._pins
        self._pins[model, version] = pin
        return is_new

    async def _read(self, model: str, version: str) -> Pin | None:
        data = await self._store.read_document(documents.pin_name(model, version))
        if data is None:
            return None
        try:
            pin = Pin.parse(data)
        except FormatError:
            # That it is there says what matters: a damaged pin must not let its version go.
            return Pin(model, version, 0, {})
        return pin if (pin.model, pin.version) == (model, version) else Pin(model, version, 0, {})

    async def add(self, pin: Pin) -> None:
        """Keep a pin (errors as refresh)."""
        await self._store.write_document(documents.pin_name(pin.model, pin.version), pin.dump())
        self._pins[pin.model, pin.version] = pin

    async def remove(self, model: str, version: str) -> None:
        """Forget a pin (errors as refresh)."""
        await self._store.delete_document(documents.pin_name(model, version))
        self._pins.pop((model, version), None)
