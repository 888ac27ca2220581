"""What a parent and its workers say to each other: JSON lines over a socket pair."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from hotstart_proxy.telemetry.gathering import Snapshot, dump_snapshot, parse_snapshot

__all__ = ["Kind", "Lines", "Message"]


class Kind(StrEnum):
    """What a message says.

    A worker says: it serves; it could not start; it wants the metrics of all; its own, asked or for the last
    time. The parent says: send your metrics; here are those of all; drain and end.
    """

    SERVING = "serving"
    FAILED = "failed"
    GATHER = "gather"
    METRICS = "metrics"
    ASK = "ask"
    GATHERED = "gathered"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        question: of ``GATHER``, and of the ``GATHERED`` that answers it.
        reason: of ``FAILED``: the sentence to end with.
        snapshot: of ``METRICS`` and ``GATHERED``.
    """

    kind: Kind
    question: int = 0
    reason: str = ""
    snapshot: Snapshot = ()

    def dump(self) -> bytes:
        """Return the line, with its end."""
        document = [self.kind, self.question, self.reason, dump_snapshot(self.snapshot)]
        return json.dumps(document).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Message:
        """Return what ``dump`` made a line of."""
        kind, question, reason, snapshot = json.loads(line)
        return cls(Kind(kind), question, reason, parse_snapshot(snapshot))


class Lines:
    """Cuts a stream into messages, however its bytes arrive."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take more bytes; return the messages that are complete with them."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [Message.parse(bytes(line)) for line in lines]
