"""What the cache answers: a resolved version, and where its bytes come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from hotstart.wire.errors import HotstartError
from hotstart.wire.manifest import Manifest
from hotstart_proxy.stores.base import FileSlice

__all__ = [
    "Body",
    "BodySource",
    "CacheClosed",
    "CacheState",
    "NotFound",
    "NotKept",
    "PinRefused",
    "Pinned",
    "ReadOutcome",
    "Redirect",
    "Resolved",
]


class NotFound(HotstartError):
    """The origin was asked, and there is no such model, version, alias or file.

    Attributes:
        what: ``"model"``, ``"version"`` or ``"file"``.
        name: what was asked for.
        known: what there is instead, at most a few.
    """

    def __init__(self, what: str, name: str, known: tuple[str, ...] = ()) -> None:
        self.what = what
        self.name = name
        self.known = known
        there_is = f"; there is {', '.join(known)}" if known else ""
        super().__init__(f"no {what} {name}{there_is}")


class NotKept(HotstartError):
    """A version that retention has retired cannot be warmed.

    Attributes:
        name: model and version.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name} is not among the versions that are kept: give it an alias to keep it, or pin it"
        )


class PinRefused(HotstartError):
    """What a pin would hold does not fit the store's budget beside what the other pins hold.

    Attributes:
        name: model and version.
        needed_bytes: what it would hold.
        pinned_bytes: what the other pins hold.
        budget_bytes: of the store.
    """

    def __init__(self, name: str, *, needed_bytes: int, pinned_bytes: int, budget_bytes: int) -> None:
        self.name = name
        self.needed_bytes = needed_bytes
        self.pinned_bytes = pinned_bytes
        self.budget_bytes = budget_bytes
        super().__init__(
            f"pinning {name} would hold {needed_bytes} bytes beside {pinned_bytes} that are pinned already, "
            f"and the store's budget is {budget_bytes}: unpin another version, or give it a larger budget"
        )


class Pinned(HotstartError):
    """A version that is pinned cannot be evicted.

    Attributes:
        name: model and version.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is pinned: unpin it first")


class CacheClosed(HotstartError):
    """The cache was closed while an answer was under way."""

    def __init__(self) -> None:
        super().__init__("the cache was closed while its answer was under way: ask again")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A reference resolved once.

    Attributes:
        manifest_bytes: exactly as at the origin.
        manifest_id: their sha256.
        published_at: milliseconds since the epoch, the index's where the version stands in it.
        by_alias: the reference named no version, so the answer may change.
        kept: within the versions that the store keeps; others are passed through or redirected.
    """

    manifest: Manifest
    manifest_bytes: bytes
    manifest_id: str
    published_at: int
    by_alias: bool
    kept: bool


class BodySource(StrEnum):
    """Where the bytes of an answer come from."""

    HIT = "hit"
    FILL = "fill"
    PASSED_ON = "pass-through"


class ReadOutcome(StrEnum):
    """What became of a reader's wish for bytes, as it stood when the answer began."""

    HIT = "hit"
    MISS = "miss"
    COALESCED = "coalesced"
    PASSED_ON = "pass-through"
    REDIRECT = "redirect"


class Body(ABC):
    """Exactly the bytes that were asked for. Close it, whatever happens.

    Attributes:
        source: where they come from; may change to a pass-through midway.
        outcome: hit if all of them were here, coalesced if a fill was under way already.
        length: how many.
    """

    source: BodySource
    outcome: ReadOutcome
    length: int

    @property
    def queue_seconds(self) -> float | None:
        """How long the reader has waited for piece buffers, all in all; None where no fill is involved."""
        return None

    def whole(self) -> FileSlice | None:
        """Give all of it as one slice of a file, where it is that and nothing is waited for.

        Of this and ``parts`` whoever gets something from one does not ask the other.
        """
        return None

    @abstractmethod
    def parts(self) -> AsyncIterator[FileSlice | bytes]:
        """Yield the bytes in order; call once.

        Of a fill no byte is yielded before its piece is verified. A pass-through is verified as it goes: it
        ends with an error before the last bytes of a damaged piece, so it never completes with one.

        Raises (while iterating): OriginError, StoreError, IntegrityError, CacheClosed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of files and fills; idempotent."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the reader to a pre-signed URL (307); never logged."""

    url: str

    @property
    def outcome(self) -> ReadOutcome:
        """As of a body."""
        return ReadOutcome.REDIRECT

    def __repr__(self) -> str:
        return "Redirect()"


@dataclass(frozen=True, slots=True)
class CacheState:
    """How the cache is.

    Attributes:
        can_serve: it can serve or redirect.
        degraded: what does not work, in words; empty if all does.
        warming: what is waited for before clients should be sent here, in words.
    """

    can_serve: bool
    degraded: tuple[str, ...]
    warming: tuple[str, ...] = ()
