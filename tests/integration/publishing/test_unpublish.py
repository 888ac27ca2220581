"""Unpublishing: what it refuses, and that a crash at any point leaves a version whole or invisible."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart.wire.index import AliasClash
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import Origin
from hotstart_proxy.publishing.errors import UnknownVersion, VersionRefused
from hotstart_proxy.publishing.publisher import publish
from hotstart_proxy.publishing.removal import unpublish
from tests.integration.publishing.recording import Crash, RecordingOrigin
from tests.integration.publishing.test_publish import (
    DATA,
    SEVEN,
    assert_whole,
    everything,
    is_visible,
    published_index,
)
from tests.support.models import make_model


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", mebibytes=1)


async def test_order_is_that_of_publishing_backwards(origin: Origin, small_folder: Path) -> None:
    """The index entry goes first, then the manifest, the data, and the claim last."""
    await publish(origin, small_folder, SEVEN)
    await publish(origin, small_folder, parse_reference("org/bert@8"))
    recording = RecordingOrigin(origin)
    gone = await unpublish(recording, SEVEN)
    assert gone.was_published
    assert gone.objects == len(DATA) + 2
    assert recording.writes[:2] == [
        "put org/bert/.hotstart/index.json",
        "delete org/bert/7/.hotstart/manifest.json",
    ]
    assert sorted(recording.writes[2:-1]) == sorted(f"delete org/bert/7/{path}" for path in DATA)
    assert recording.writes[-1] == "delete org/bert/7/.hotstart/begin.json"
    assert not [key for key in await everything(origin) if key.startswith("org/bert/7/")]
    index = await published_index(origin)
    assert index.latest() == "8"
    await assert_whole(origin, small_folder, "8")


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it, answer lost"])
async def test_crash_at_every_write(origin: Origin, small_folder: Path, after: bool) -> None:
    """Killed at any write, an unpublish leaves the version whole or invisible, and ends when run again."""
    for crash_at in range(len(DATA) + 3):
        reference = parse_reference(f"org/bert@v{crash_at}")
        version = str(reference.selector)
        await publish(origin, small_folder, reference)
        with pytest.raises(Crash):
            await unpublish(RecordingOrigin(origin, crash_at, after=after), reference)
        if await is_visible(origin, version):
            await assert_whole(origin, small_folder, version)
        if crash_at % 2:
            # Publishing again what is half gone makes it whole.
            await publish(origin, small_folder, reference)
            await assert_whole(origin, small_folder, version)
        left = [key for key in await everything(origin) if key.startswith(f"org/bert/{version}/")]
        if left:
            await unpublish(origin, reference)
        else:
            with pytest.raises(UnknownVersion):
                await unpublish(origin, reference)
        assert not [key for key in await everything(origin) if key.startswith(f"org/bert/{version}/")]
        assert not await is_visible(origin, version)


async def test_interrupted_publish_is_cleared(origin: Origin, small_folder: Path) -> None:
    """What an interrupted publish left is removed, and the version can be published with other bytes."""
    with pytest.raises(Crash):
        await publish(RecordingOrigin(origin, crash_at=4), small_folder, SEVEN)
    gone = await unpublish(origin, SEVEN)
    assert not gone.was_published
    assert await everything(origin) == []
    (small_folder / "config.json").write_text("{}")
    await publish(origin, small_folder, SEVEN)
    await assert_whole(origin, small_folder)


async def test_aliased_version_is_refused(origin: Origin, small_folder: Path) -> None:
    """A version that an alias means is not unpublished; the alias is named."""
    await publish(origin, small_folder, SEVEN, alias="prod")
    recording = RecordingOrigin(origin)
    with pytest.raises(AliasClash, match="'7' is what prod means: move that alias first"):
        await unpublish(recording, SEVEN)
    with pytest.raises(VersionRefused, match="is an alias: unpublish the version it means, 7"):
        await unpublish(recording, parse_reference("org/bert@prod"))
    assert recording.writes == []


async def test_unknown_version(origin: Origin, small_folder: Path) -> None:
    """A version that is not there is an error that names those that are."""
    await publish(origin, small_folder, SEVEN)
    with pytest.raises(UnknownVersion, match="has no version org/bert@8; there is 7"):
        await unpublish(origin, parse_reference("org/bert@8"))


async def test_adopted_version_is_not_ours(origin: Origin) -> None:
    """Plain files that somebody uploaded are not deleted."""
    await origin.put("org/bert/7/config.json", b"{}")
    with pytest.raises(VersionRefused, match="is adopted"):
        await unpublish(origin, SEVEN)
    assert await everything(origin) == ["org/bert/7/config.json"]
