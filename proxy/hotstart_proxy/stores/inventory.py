"""What a store holds, in memory: from its folders, and from what this process does itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .ledger import Ledger, Space
from .listing import Changes, Marks

__all__ = ["Inventory"]


class Inventory:
    """Blobs, partial blobs and what is in quarantine, each with its space in one ledger. On the event loop.

    What other processes have open without a name (unlinked, and still being read) is not known here.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.ledger = Ledger(budget_bytes)
        self._blobs: dict[str, Space] = {}
        self._sizes: dict[str, int] = {}
        self._partials: dict[str, Space] = {}
        self._quarantined: dict[str, Space] = {}
        self._marks: Marks = {}

    @property
    def blobs(self) -> Mapping[str, int]:
        """Sizes in bytes by content id."""
        return MappingProxyType(self._sizes)

    @property
    def partials(self) -> tuple[str, ...]:
        """Content ids of all partial blobs, those included that are being filled."""
        return tuple(self._partials)

    @property
    def quarantined(self) -> tuple[str, ...]:
        """Content ids of what is in quarantine."""
        return tuple(self._quarantined)

    @property
    def marks(self) -> Marks:
        """What was taken in last."""
        return self._marks

    def take_in(self, changes: Changes) -> None:
        """Follow what a look has found."""
        self._marks = changes.marks
        gone = set() if changes.partials is None else self._partials.keys() - changes.partials.keys()
        known = [content_id for content_id in self._blobs if content_id[:2] in changes.blobs]
        for content_id in known:
            if content_id not in changes.blobs[content_id[:2]]:
                self.remove_blob(content_id)
        for found in changes.blobs.values():
            for content_id, size in found.items():
                if self._sizes.get(content_id) == size:
                    continue
                partial = self._partials.get(content_id) if content_id in gone else None
                if partial is not None and partial.size == size:
                    # Committed by another process: the same file under its other name.
                    del self._partials[content_id]
                    self.add_blob(content_id, partial)
                else:
                    self.add_blob(content_id, Space(self.ledger, size))
        if changes.partials is not None:
            self._follow(self._partials, changes.partials)
        if changes.quarantined is not None:
            self._follow(self._quarantined, changes.quarantined)

    def _follow(self, spaces: dict[str, Space], found: Mapping[str, int]) -> None:
        for content_id in spaces.keys() - found.keys():
            spaces.pop(content_id).unname()
        for content_id, size in found.items():
            known = spaces.get(content_id)
            if known is None or known.size != size:
                _put(spaces, content_id, Space(self.ledger, size))

    def blob(self, content_id: str) -> Space | None:
        """Return a blob's space."""
        return self._blobs.get(content_id)

    def add_blob(self, content_id: str, space: Space) -> None:
        """Note that a blob is there, in place of another one of its id."""
        _put(self._blobs, content_id, space)
        self._sizes[content_id] = space.size

    def remove_blob(self, content_id: str) -> None:
        """Note that a blob has no name any more."""
        space = self._blobs.pop(content_id, None)
        if space is not None:
            del self._sizes[content_id]
            space.unname()

    def set_aside(self, content_id: str) -> None:
        """Note that a blob has gone to quarantine."""
        space = self._blobs.pop(content_id, None)
        if space is not None:
            del self._sizes[content_id]
            _put(self._quarantined, content_id, space)

    def add_partial(self, content_id: str, size: int) -> Space:
        """Note that a partial blob has been created."""
        space = Space(self.ledger, size)
        _put(self._partials, content_id, space)
        return space

    def partial(self, content_id: str) -> Space | None:
        """Return a partial blob's space."""
        return self._partials.get(content_id)

    def committed(self, content_id: str, space: Space) -> None:
        """Note that a partial blob is a blob now."""
        if self._partials.get(content_id) is space:
            del self._partials[content_id]
        self.add_blob(content_id, space)

    def dropped(self, content_id: str, space: Space) -> None:
        """Note that a partial blob has no name any more, unless a look has found its file under another."""
        if self._partials.get(content_id) is space:
            del self._partials[content_id]
        if all(spaces.get(content_id) is not space for spaces in (self._blobs, self._quarantined)):
            space.unname()

    def remove_partial(self, content_id: str) -> int:
        """Note that a partial blob has been removed; return its size."""
        return _remove(self._partials, content_id)

    def remove_quarantined(self, content_id: str) -> int:
        """Note that something in quarantine has been removed; return its size."""
        return _remove(self._quarantined, content_id)


def _put(spaces: dict[str, Space], content_id: str, space: Space) -> None:
    before = spaces.get(content_id)
    if before is not None and before is not space:
        before.unname()
    spaces[content_id] = space


def _remove(spaces: dict[str, Space], content_id: str) -> int:
    space = spaces.pop(content_id, None)
    if space is None:
        return 0
    space.unname()
    return space.size
