"""Twins for versions of plain files that somebody uploaded."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import Manifest
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import Origin
from hotstart_proxy.origins.catalog import catalog_of, perform
from hotstart_proxy.publishing.additions import add_twins
from hotstart_proxy.publishing.errors import UnknownVersion, VersionRefused
from hotstart_proxy.publishing.publisher import Outcome, now_ms, publish
from hotstart_proxy.publishing.twin_uploads import TwinChoice
from tests.integration.publishing.recording import Crash, RecordingOrigin
from tests.integration.publishing.test_publish import SEVEN, content, everything
from tests.support.models import make_model

# Plain files are adopted a minute after the newest was written.
LATER_MS = 3_600_000
WRITES = [
    "upload org/bert/7/model.safetensors.zst",
    "upload org/bert/7/model.safetensors.zsp",
    "put org/bert/7/.hotstart/twins-zst.json",
    "put org/bert/7/.hotstart/twins-zsp.json",
]


@pytest.fixture
async def adopted(origin: Origin, tmp_path: Path) -> Origin:
    """An origin with one adopted version."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            await origin.put(f"org/bert/7/{path.relative_to(folder)}", path.read_bytes())
    return origin


async def adopted_manifest(origin: Origin) -> Manifest:
    catalog = catalog_of(origin, Layout())
    data = await perform(origin, catalog.manifest("org/bert", "7", now_ms() + LATER_MS))
    assert data is not None
    return Manifest.parse(data)


async def test_twins_join_an_adopted_version(
    adopted: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins come with a document for each suffix, nothing that was there changes, and zstd reads them."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    before = await adopted_manifest(adopted)
    recording = RecordingOrigin(adopted)
    added = await add_twins(recording, SEVEN, Layout(), now_ms() + LATER_MS)
    assert recording.writes == WRITES
    assert (added.outcome, added.sent_objects) == (Outcome.PUBLISHED, 2)
    assert list(room.iterdir()) == []

    manifest = await adopted_manifest(adopted)
    assert [file.identity() for file in manifest.files] == [file.identity() for file in before.files]
    file = manifest.file("model.safetensors")
    assert file is not None
    twin = file.twin(".zst")
    assert twin is not None
    data = await content(adopted, twin.origin.key)
    assert hashlib.sha256(data).hexdigest() == twin.id
    packed = tmp_path / "twin.zst"
    packed.write_bytes(data)
    zstd = Path(sys.executable).parent / "zstd"
    process = await asyncio.create_subprocess_exec(zstd, "-d", "-q", packed, "-o", tmp_path / "plain")
    assert await process.wait() == 0
    async with adopted.get(file.origin, ByteRange(0, file.size)) as chunks:
        assert (tmp_path / "plain").read_bytes() == b"".join([chunk async for chunk in chunks])

    recording = RecordingOrigin(adopted)
    again = await add_twins(recording, SEVEN, Layout(), now_ms() + LATER_MS)
    assert recording.writes == []
    assert (again.outcome, again.twins) == (Outcome.UNCHANGED, added.twins)


@pytest.mark.parametrize("crash_at", range(len(WRITES)))
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it, answer lost"])
async def test_crash_leaves_the_version_as_it_was(adopted: Origin, crash_at: int, after: bool) -> None:
    """Killed at any write, the version has the twins that documents name, and the same call ends the work."""
    with pytest.raises(Crash):
        await add_twins(RecordingOrigin(adopted, crash_at, after=after), SEVEN, Layout(), now_ms() + LATER_MS)
    manifest = await adopted_manifest(adopted)
    named = sum(write.startswith("put") for write in WRITES[: crash_at + after])
    assert [len(file.twins) for file in manifest.files if file.path == "model.safetensors"] == [named]
    recording = RecordingOrigin(adopted)
    added = await add_twins(recording, SEVEN, Layout(), now_ms() + LATER_MS)
    assert recording.writes == WRITES[crash_at + after :]
    assert len(added.twins) == 2


async def test_planes_join_frames_that_are_there(adopted: Origin) -> None:
    """A version with twins of one suffix gets the other later, and only that is made."""
    frames = TwinChoice(frozenset({".zst"}))
    first = await add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS, choice=frames)
    assert [twin.path for twin in first.twins] == ["model.safetensors.zst"]
    again = await add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS, choice=frames)
    assert (again.outcome, again.twins) == (Outcome.UNCHANGED, first.twins)
    recording = RecordingOrigin(adopted)
    both = await add_twins(recording, SEVEN, Layout(), now_ms() + LATER_MS)
    assert recording.writes == [write for write in WRITES if "zsp" in write]
    assert (both.outcome, both.sent_objects) == (Outcome.PUBLISHED, 1)
    assert [twin.path for twin in both.twins] == ["model.safetensors.zsp", "model.safetensors.zst"]
    manifest = await adopted_manifest(adopted)
    assert [twin.suffix for file in manifest.files for twin in file.twins] == [".zsp", ".zst"]


async def test_two_at_once(adopted: Origin) -> None:
    """Two who add the same twins at once both end well."""
    results = await asyncio.gather(
        *(add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS) for _ in range(2))
    )
    assert [len(result.twins) for result in results] == [2, 2]


async def test_published_version_is_refused(origin: Origin, tmp_path: Path) -> None:
    """A published version, and one that is being published, get no twins later, and the reason is given."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    with pytest.raises(Crash):
        await publish(RecordingOrigin(origin, crash_at=3), folder, SEVEN)
    with pytest.raises(VersionRefused, match="is a publish that has not finished"):
        await add_twins(origin, SEVEN, Layout(), now_ms() + LATER_MS)
    await publish(origin, folder, SEVEN)
    with pytest.raises(VersionRefused, match="is published: its twins were made as it was published"):
        await add_twins(origin, SEVEN, Layout(), now_ms() + LATER_MS)


async def test_what_is_not_adopted_is_refused(adopted: Origin) -> None:
    """A version that is too young, or not there, is refused with the reason."""
    with pytest.raises(VersionRefused, match=r"is not adopted: .*: newest object is"):
        await add_twins(adopted, SEVEN, Layout(), now_ms())
    with pytest.raises(UnknownVersion, match="has no version org/bert@8; there is 7"):
        await add_twins(adopted, parse_reference("org/bert@8"), Layout(), now_ms() + LATER_MS)


async def test_malformed_file_is_refused(adopted: Origin) -> None:
    """A Safetensors file that is none gets no twin, and is named."""
    await adopted.put("org/bert/7/x.safetensors", b"")
    with pytest.raises(FormatError, match=r"header of x\.safetensors"):
        await add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS)
    assert "org/bert/7/.hotstart/twins-zst.json" not in await everything(adopted)


async def test_replaced_file_is_refused(adopted: Origin, tmp_path: Path) -> None:
    """Twins of bytes that were replaced since are not passed over in silence."""
    await add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS)
    other = make_model(tmp_path / "other", seed=1, mebibytes=1)
    await adopted.put("org/bert/7/model.safetensors", (other / "model.safetensors").read_bytes())
    with pytest.raises(VersionRefused, match=r"got twins before model\.safetensors was replaced"):
        await add_twins(adopted, SEVEN, Layout(), now_ms() + LATER_MS)
