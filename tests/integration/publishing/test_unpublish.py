"""Unpublishing: what it refuses, and that a crash at any point leaves a version whole or invisible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from hotstart.wire.index import AliasClash
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import ObjectInfo, Origin
from hotstart_proxy.publishing.errors import UnknownVersion, VersionGone, VersionRefused
from hotstart_proxy.publishing.progress import NoProgress, Stage
from hotstart_proxy.publishing.publisher import publish
from hotstart_proxy.publishing.removal import unpublish
from tests.integration.publishing.conftest import Unfinished
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


@pytest.mark.parametrize("end", ["unpublish", "publish"])
async def test_what_killed_uploads_left_is_cleared(
    origin: Origin, unfinished: Unfinished, small_folder: Path, end: str
) -> None:
    """Parts and temporary files of a killed publisher go with the version, or when it is complete."""
    with pytest.raises(Crash):
        await publish(RecordingOrigin(origin, crash_at=2), small_folder, SEVEN)
    unfinished.leave("org/bert/7/model.safetensors")
    unfinished.leave("org/bert/8/model.safetensors")
    assert unfinished.keys() == ["org/bert/7/model.safetensors", "org/bert/8/model.safetensors"]
    if end == "unpublish":
        await unpublish(origin, SEVEN)
        assert await everything(origin) == []
    else:
        await publish(origin, small_folder, SEVEN)
        await assert_whole(origin, small_folder)
    assert unfinished.keys() == ["org/bert/8/model.safetensors"]


class Unpublished(RecordingOrigin):
    """Somebody begins to unpublish the version when its publisher is about to send this file."""

    path = ""
    head_start_seconds: float | None = None
    unpublishing: asyncio.Task[object] | None = None

    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        if key == f"org/bert/7/{self.path}":
            self.unpublishing = asyncio.create_task(unpublish(self.inner, SEVEN))
            await asyncio.wait((self.unpublishing,), timeout=self.head_start_seconds)
        return await super().upload(key, source, metadata=metadata, media_type=media_type, progress=progress)


@pytest.mark.parametrize("path", DATA)
async def test_unpublished_while_it_is_published(origin: Origin, small_folder: Path, path: str) -> None:
    """Its publisher is told and takes back what it sent, which readers would adopt; then all is as before."""
    unpublished = Unpublished(origin)
    unpublished.path = path
    with pytest.raises(VersionGone, match="was unpublished while it was being published"):
        await publish(unpublished, small_folder, SEVEN)
    assert unpublished.unpublishing is not None
    await unpublished.unpublishing
    assert await everything(origin) == []
    await publish(origin, small_folder, SEVEN)
    await assert_whole(origin, small_folder)


@pytest.mark.parametrize("head_start_seconds", [0, 0.002, 0.01])
async def test_unpublished_at_any_moment(
    origin: Origin, small_folder: Path, head_start_seconds: float
) -> None:
    """However publishing and unpublishing interleave, no plain files of the version are left."""
    unpublished = Unpublished(origin)
    unpublished.path = DATA[-1]
    unpublished.head_start_seconds = head_start_seconds
    with suppress(VersionGone):
        await publish(unpublished, small_folder, SEVEN)
    assert unpublished.unpublishing is not None
    await unpublished.unpublishing
    # What its publisher put last may be left for the next one.
    with suppress(UnknownVersion):
        await unpublish(origin, SEVEN)
    assert await everything(origin) in ([], ["org/bert/.hotstart/index.json"])


async def test_a_large_upload_ends_with_the_version(origin: Origin, tmp_path: Path) -> None:
    """A publisher in the middle of a large file is told soon when its version is unpublished."""
    folder = make_model(tmp_path / "model", mebibytes=64)
    began = asyncio.Event()

    class Watcher(NoProgress):
        def advance(self, stage: Stage, count: int) -> None:
            if stage is Stage.UPLOADING and count > 1024 * 1024:
                loop.call_soon_threadsafe(began.set)

    loop = asyncio.get_running_loop()
    publishing = asyncio.create_task(publish(origin, folder, SEVEN, progress=Watcher()))
    await began.wait()
    await unpublish(origin, SEVEN)
    with pytest.raises(VersionGone, match="was unpublished while it was being published"):
        await publishing
    assert await everything(origin) == []


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
