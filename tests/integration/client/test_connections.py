"""How many connections a source is read with, while it is read."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from hotstart import loading
from hotstart.engine import transfer
from hotstart.sources.base import Session, SourceKind
from hotstart.wire.pieces import PIECE_BYTES
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.models import assert_same_tensors


@dataclass(eq=False)
class Paced(FaultySource):
    """A source that gives every connection the same pace.

    Attributes:
        rate: bytes a second, of one connection.
        sessions: how many there were.
    """

    rate: float = 10e6
    sessions: int = 0

    def session(self) -> Session:
        with self.lock:
            self.sessions += 1
        return super().session()

    def take(self, path: str, start: int, limit: int, left: int | None) -> bytes:
        data = super().take(path, start, limit, left)
        time.sleep(len(data) / self.rate)
        return data


@pytest.mark.parametrize(("kind", "grows"), [(SourceKind.TCP, True), (SourceKind.UNIX, False)])
def test_a_paced_source_is_read_over_more_connections(
    published: Published, bert: Version, monkeypatch: pytest.MonkeyPatch, kind: SourceKind, grows: bool
) -> None:
    """Connections that bring little each are joined by more; over a Unix socket they are not."""
    monkeypatch.setattr(loading, "item_bytes", lambda *_: PIECE_BYTES)
    monkeypatch.setattr(transfer, "ITEM_BYTES", PIECE_BYTES // 4)
    monkeypatch.setattr(transfer, "worker_count", lambda *_, **__: 2)
    source = Paced(bert, kind=kind)
    found = open_with(bert, source).load(compression="none")
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert (source.sessions > 2) == grows
