"""Aliases move atomically, several at once, and no mover's move is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.index import AliasClash
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import Origin
from hotstart_proxy.origins.catalog import catalog_of, perform
from hotstart_proxy.publishing.aliases import move_aliases
from hotstart_proxy.publishing.errors import UnknownVersion, VersionRefused
from hotstart_proxy.publishing.publisher import now_ms, publish
from tests.integration.publishing.recording import Crash, RecordingOrigin
from tests.integration.publishing.test_publish import MODEL, SEVEN, everything, published_index

# Plain files are adopted a minute after the newest was written.
LATER_MS = 3_600_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
async def two_versions(origin: Origin, folder: Path) -> Origin:
    for version in ("7", "8"):
        await publish(origin, folder, parse_reference(f"org/bert@{version}"))
    return origin


async def test_several_move_in_one_swap(two_versions: Origin) -> None:
    """Any number of aliases of a model move in one write of its index, or none does."""
    recording = RecordingOrigin(two_versions)
    await move_aliases(recording, MODEL, {"prod": "7", "canary": "8", "old": "7"}, Layout(), now_ms())
    before = await published_index(two_versions)
    moved = await move_aliases(
        recording, MODEL, {"prod": "8", "canary": None, "new": "8"}, Layout(), now_ms()
    )
    assert recording.writes == ["put org/bert/.hotstart/index.json"] * 2
    assert moved.aliases == {"prod": "8", "old": "7", "new": "8"}
    assert moved.before == {"prod": "7", "canary": "8", "new": None}
    index = await published_index(two_versions)
    assert (index.aliases, index.serial) == (moved.aliases, before.serial + 1)

    with pytest.raises(UnknownVersion, match="has no version org/bert@9; there is 8; 7"):
        await move_aliases(recording, MODEL, {"prod": "7", "canary": "9"}, Layout(), now_ms())
    with pytest.raises(AliasClash, match="'7' is a version already"):
        await move_aliases(recording, MODEL, {"prod": "7", "7": "8"}, Layout(), now_ms())
    with pytest.raises(UnknownVersion, match="no alias canary of org/bert; there is new; old; prod"):
        await move_aliases(recording, MODEL, {"canary": None}, Layout(), now_ms())
    with pytest.raises(UnknownVersion, match="has no model org/other"):
        await move_aliases(recording, "org/other", {"prod": "7"}, Layout(), now_ms())
    assert await published_index(two_versions) == index


async def test_same_move_again_writes_nothing(two_versions: Origin) -> None:
    """An alias that means the version already is left alone."""
    await move_aliases(two_versions, MODEL, {"prod": "7"}, Layout(), now_ms())
    recording = RecordingOrigin(two_versions)
    await move_aliases(recording, MODEL, {"prod": "7"}, Layout(), now_ms())
    assert recording.writes == []


async def test_concurrent_movers_lose_no_move(two_versions: Origin) -> None:
    """Eight movers at once all succeed, and every move stands in the index."""
    before = await published_index(two_versions)
    names = [f"alias{number}" for number in range(8)]
    await asyncio.gather(
        *(
            move_aliases(two_versions, MODEL, {name: "78"[number % 2]}, Layout(), now_ms())
            for number, name in enumerate(names)
        )
    )
    index = await published_index(two_versions)
    assert index.aliases == {name: "78"[number % 2] for number, name in enumerate(names)}
    assert index.serial == before.serial + 8


async def test_alias_of_an_adopted_version(origin: Origin, origin_url: str, tmp_path: Path) -> None:
    """An alias can mean a version of plain files, once that is adopted, and not before."""
    await origin.put("org/bert/7/config.json", b"{}")
    with pytest.raises(UnknownVersion):
        await move_aliases(origin, MODEL, {"prod": "7"}, Layout(), now_ms())
    later = now_ms() + LATER_MS
    await move_aliases(origin, MODEL, {"prod": "7"}, Layout(), later)
    known = await perform(origin, catalog_of(origin, Layout()).index(MODEL, later))
    assert known is not None
    assert known.index.resolve(None) == "7"
    with pytest.raises(AliasClash, match="'7' is a version already"):
        await move_aliases(origin, MODEL, {"7": "7"}, Layout(), later)


async def test_version_that_no_index_names(origin: Origin, folder: Path) -> None:
    """A version whose publish died before the index cannot get an alias until it is published again."""
    with pytest.raises(Crash):
        await publish(RecordingOrigin(origin, crash_at=3), folder, SEVEN)
    assert "org/bert/7/.hotstart/manifest.json" in await everything(origin)
    with pytest.raises(VersionRefused, match="publish it again"):
        await move_aliases(origin, MODEL, {"prod": "7"}, Layout(), now_ms())
