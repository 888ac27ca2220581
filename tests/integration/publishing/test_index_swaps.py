"""Compare-and-swap of an index: every change of every writer arrives, or is an error."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, IndexEntry
from hotstart_proxy.origins.base import ObjectChanged, ObjectInfo, Origin
from hotstart_proxy.publishing.errors import IndexContended
from hotstart_proxy.publishing.index_swaps import read_index, swap_index
from tests.integration.publishing.recording import RecordingOrigin

KEY = "org/bert/.hotstart/index.json"


@pytest.fixture(autouse=True)
async def _publishable(origin: Origin) -> None:
    # As every command does first: it creates the directory.
    await origin.check_publishable()


def add_seven(index: Index) -> Index:
    return index.with_version(IndexEntry("7", 1_000))


class Contended(RecordingOrigin):
    """Refuses the first writes as if others had been faster; with arrives they take effect all the same."""

    def __init__(self, inner: Origin, refusals: int, *, arrives: bool) -> None:
        super().__init__(inner)
        self.refusals = refusals
        self.arrives = arrives

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        create_only: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        refused = self.refusals > 0
        self.refusals -= 1
        info = None
        if self.arrives or not refused:
            info = await super().put(
                key, data, create_only=create_only, if_match=if_match, media_type=media_type
            )
        if refused or info is None:
            raise ObjectChanged(self.url, f"writing {key}", "it was replaced meanwhile")
        return info


@pytest.mark.parametrize("arrives", [False, True], ids=["lost race", "lost answer"])
async def test_refused_write_is_made_again(origin: Origin, arrives: bool) -> None:
    """A swap that was refused is made again on the index as it is then, and never twice."""
    contended = Contended(origin, 3, arrives=arrives)
    index = await swap_index(contended, "org/bert", add_seven, jitter=lambda: 0.0)
    found, _ = await read_index(origin, "org/bert")
    assert found == index
    assert index.serial == 1
    assert contended.writes == [f"put {KEY}"]


async def test_endless_contention_ends(origin: Origin) -> None:
    """A swap that is refused each time ends with an error that says so."""
    with pytest.raises(IndexContended, match="was changed by others 40 times in a row"):
        await swap_index(Contended(origin, 1000, arrives=False), "org/bert", add_seven, jitter=lambda: 0.0)


async def test_no_change_writes_nothing(origin: Origin) -> None:
    """A change that changes nothing is not written, even where there is no index yet."""
    recording = RecordingOrigin(origin)
    assert await swap_index(recording, "org/bert", lambda index: index) == Index("org/bert")
    assert recording.writes == []


async def test_index_of_another_model(origin: Origin) -> None:
    """An index that lies where another model's should is not built upon."""
    await origin.put(KEY, Index("org/other").dump())
    with pytest.raises(FormatError, match="is that of org/other"):
        await swap_index(origin, "org/bert", add_seven)


async def test_unknown_members_outlive_a_swap(origin: Origin) -> None:
    """What a newer hotstart has put into an index is still there after this one has moved it."""
    await swap_index(origin, "org/bert", add_seven)
    found = await origin.read(KEY)
    assert found is not None
    assert found.data is not None
    newer = found.data.replace(b'"aliases":{}', b'"aliases":{},"signed_by":"x"')
    assert newer != found.data
    await origin.put(KEY, newer, if_match=found.etag)
    await swap_index(origin, "org/bert", lambda index: index.with_alias("prod", "7"))
    found = await origin.read(KEY)
    assert found is not None
    assert found.data is not None
    assert b'"signed_by":"x"' in found.data
    assert b'"prod":"7"' in found.data
