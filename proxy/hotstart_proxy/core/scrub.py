"""Looking for damage at rest: in which order, how fast, and whose turn it is.

Several processes may share a store, and one of them is to do it. Whoever does leaves a record beside the
blobs and renews it; a record that is not renewed is of a process that is gone, and another one goes on from
where it stopped. Two may both do it for a while, which costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hotstart.wire import documents
from hotstart.wire.errors import FormatError

__all__ = [
    "BEAT_SECONDS",
    "SCRUB_PACE",
    "VERIFY_PACE",
    "Pace",
    "ScrubRecord",
    "scrub_order",
    "seconds_to_wait",
]

_WHAT = "scrub record"
# How often a record is renewed, and after how long without that its process counts as gone.
BEAT_SECONDS = 20.0
_GONE_SECONDS = 3 * BEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast blobs are read.

    Attributes:
        bytes_per_second: at most.
        share: of the time that may be spent reading and hashing, above 0 and at most 1.
    """

    bytes_per_second: float
    share: float

    def pause_seconds(self, count: int, took_seconds: float) -> float:
        """Return how long to rest after count bytes that took so long."""
        return max(
            0.0, count / self.bytes_per_second - took_seconds, took_seconds / self.share - took_seconds
        )


# A disk gives several times this, and the page cache is left to those who load: a terabyte in three hours.
SCRUB_PACE = Pace(100e6, 0.25)
# Somebody waits for it, and others load meanwhile.
VERIFY_PACE = Pace(1e9, 0.5)


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """How far the scrub of a store has come. Times are milliseconds since the epoch.

    Attributes:
        by: the process that does it.
        renewed_at: when it last said so.
        after: the content id that was read last; empty at the beginning.
        finished_at: when everything had been read; None while it goes on.
    """

    by: str
    renewed_at: int
    after: str
    finished_at: int | None

    def dump(self) -> bytes:
        """Serialize."""
        return documents.dump_json(
            {
                "format": 1,
                "by": self.by,
                "renewed_at": self.renewed_at,
                "after": self.after,
                "finished_at": self.finished_at,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> ScrubRecord:
        """Parse what dump gave.

        Raises:
            FormatError: anything else.
        """
        document = documents.load_json(data, _WHAT)
        if document.integer("format") != 1:
            raise FormatError(_WHAT, f"format {document.integer('format')}: this hotstart reads 1")
        return cls(
            document.text("by"),
            document.integer("renewed_at"),
            document.text("after"),
            document.optional_integer("finished_at"),
        )


def seconds_to_wait(
    record: ScrubRecord | None, me: str, started_at: int, now: int, interval_seconds: float
) -> float:
    """Return how long a process must wait before it is its turn to scrub; 0 to begin.

    Args:
        record: as it stands in the store; None if there is none that can be read.
        me: this process.
        started_at: of this process, milliseconds since the epoch: what was read before is read again once.
        now: milliseconds since the epoch; a record from the future is of a clock that was set back.
        interval_seconds: from the end of one scrub to the beginning of the next.
    """
    if record is None:
        return 0.0
    if record.finished_at is None:
        silent_seconds = (now - record.renewed_at) / 1000
        if record.by == me or not 0 <= silent_seconds < _GONE_SECONDS:
            return 0.0
        return _GONE_SECONDS - silent_seconds
    if not started_at <= record.finished_at <= now:
        return 0.0
    return max(0.0, interval_seconds - (now - record.finished_at) / 1000)


def scrub_order(held: Collection[str], after: str) -> list[str]:
    """Return the order in which blobs are read: by content id from after on, then from the beginning.

    An interrupted scrub is so gone on with, and none of many short-lived processes reads the same few.
    """
    ordered = sorted(held)
    return [blob for blob in ordered if blob > after] + [blob for blob in ordered if blob <= after]


def fault_of(
    content_id: str, sha256: str, crc32: Sequence[int], learned: Sequence[int] | None, *, is_published: bool
) -> str | None:
    """Return what is wrong with a blob's bytes, in words; None if they are sound, or nothing tells.

    Args:
        content_id: of the blob; the sha256 of its bytes if it was published.
        sha256: that was found.
        crc32: that were found, one a piece.
        learned: the crc32s that a fill has learned of an adopted file; None where there are none.
        is_published: a manifest says that content_id is the sha256.
    """
    if sha256 == content_id:
        return None
    if is_published:
        return f"its sha256 is {sha256}"
    if learned is None:
        return None
    pieces = [
        str(piece) for piece, pair in enumerate(zip(crc32, learned, strict=False)) if pair[0] != pair[1]
    ]
    if pieces:
        return f"other bytes than were filled, in piece {', '.join(pieces[:8])}"
    return None if len(crc32) == len(learned) else f"{len(crc32)} pieces where {len(learned)} were filled"


def is_checked(content_id: str, sha256: str, learned: Sequence[int] | None, *, is_published: bool) -> bool:
    """Tell whether anything says what a blob's bytes must be; arguments as of fault_of."""
    return sha256 == content_id or is_published or learned is not None
