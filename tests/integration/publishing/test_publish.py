"""Publishing to both kinds of origin: what lies there afterwards, in which order it came, and crashes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from hotstart.commands.unpack import unpack_file
from hotstart.wire.adoption import Layout
from hotstart.wire.catalog import Listing
from hotstart.wire.claim import Claim
from hotstart.wire.index import AliasClash, Index
from hotstart.wire.manifest import Manifest
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import Origin, OriginUnfit
from hotstart_proxy.origins.catalog import catalog_of, perform
from hotstart_proxy.origins.urls import open_origin
from hotstart_proxy.publishing.aliases import move_aliases
from hotstart_proxy.publishing.errors import FileChanged, FolderRefused, NoRoom, VersionRefused, VersionTaken
from hotstart_proxy.publishing.publisher import Outcome, now_ms, publish
from hotstart_proxy.publishing.removal import unpublish
from hotstart_proxy.publishing.twin_uploads import TwinChoice
from tests.integration.publishing.recording import Crash, RecordingOrigin
from tests.support.models import make_model

MODEL = "org/bert"
SEVEN = parse_reference("org/bert@7")
FILES = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
TWINS = ["model.safetensors.zsp", "model.safetensors.zst"]
DATA = [*FILES, *TWINS]


async def everything(origin: Origin) -> list[str]:
    listing = await origin.list("", recursive=True)
    return [item.key for item in listing.objects]


async def content(origin: Origin, key: str) -> bytes:
    info = await origin.head(key)
    assert info is not None, key
    found = await origin.read(key)
    assert found is not None
    assert found.data is not None
    return found.data


async def published_index(origin: Origin) -> Index:
    return Index.parse(await content(origin, "org/bert/.hotstart/index.json"))


async def is_visible(origin: Origin, version: str = "7") -> bool:
    """Whether readers find the version; they must find it in the index and by its manifest, or in neither."""
    catalog = catalog_of(origin, Layout())
    manifest = await perform(origin, catalog.manifest(MODEL, version, now_ms()))
    known = await perform(origin, catalog.index(MODEL, now_ms()))
    in_index = known is not None and known.index.entry(version) is not None
    assert in_index == (manifest is not None)
    return in_index


async def assert_whole(origin: Origin, folder: Path, version: str = "7") -> Manifest:
    """Compare every object of a version with its manifest, and every file with the folder."""
    data = await perform(origin, catalog_of(origin, Layout()).manifest(MODEL, version, now_ms()))
    assert data is not None
    manifest = Manifest.parse(data)
    for file in manifest.files:
        for representation in file.representations():
            place = representation.origin
            async with origin.get(place, ByteRange(0, representation.size)) as chunks:
                found = b"".join([chunk async for chunk in chunks])
            assert hashlib.sha256(found).hexdigest() == representation.sha256 == representation.id
            assert representation.pieces is not None
            for number in range(len(representation.pieces.crc32)):
                piece = found[number << 22 : (number + 1) << 22]
                representation.pieces.check(number, piece, representation.path)
            if representation.path == file.path:
                assert found == (folder / file.path).read_bytes()
    return manifest


async def test_tree_is_layout_1_to_the_letter(origin: Origin, model_folder: Path) -> None:
    """A publish leaves claim, files with subfolders, twins, manifest and index under layout 1's keys."""
    published = await publish(origin, model_folder, SEVEN, alias="prod", metadata={"run": "42"})

    assert await everything(origin) == sorted(
        [
            "org/bert/.hotstart/index.json",
            "org/bert/7/.hotstart/begin.json",
            "org/bert/7/.hotstart/manifest.json",
            *(f"org/bert/7/{path}" for path in DATA),
        ]
    )
    claim = Claim.parse(await content(origin, "org/bert/7/.hotstart/begin.json"))
    assert [file.path for file in claim.files] == FILES
    for file in claim.files:
        data = (model_folder / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    manifest_bytes = await content(origin, "org/bert/7/.hotstart/manifest.json")
    manifest = await assert_whole(origin, model_folder)
    assert manifest.dump() == manifest_bytes
    assert [file.path for file in manifest.files] == FILES
    assert manifest.metadata == {"run": "42"}
    index = await published_index(origin)
    assert index.serial == 1
    assert index.aliases == {"prod": "7"}
    (entry,) = index.versions
    assert entry.manifest_id == hashlib.sha256(manifest_bytes).hexdigest()
    assert entry.published_at == manifest.published_at == published.published_at
    assert (published.outcome, published.aliases, published.sent_objects) == (Outcome.PUBLISHED, ("prod",), 6)


async def test_data_objects_carry_their_sha256(origin: Origin, model_folder: Path) -> None:
    """Every data object says in its metadata which bytes it holds."""
    await publish(origin, model_folder, SEVEN)
    for path in FILES:
        info = await origin.head(f"org/bert/7/{path}")
        assert info is not None
        assert info.metadata["sha256"] == hashlib.sha256((model_folder / path).read_bytes()).hexdigest()


async def test_claim_first_manifest_last_then_index(origin: Origin, model_folder: Path) -> None:
    """The claim is put before any data, the manifest after all data, and the index after the manifest."""
    recording = RecordingOrigin(origin)
    await publish(recording, model_folder, SEVEN)
    assert recording.writes[0] == "put org/bert/7/.hotstart/begin.json"
    assert sorted(recording.writes[1:-2]) == sorted(f"upload org/bert/7/{path}" for path in DATA)
    assert recording.writes[-2:] == [
        "put org/bert/7/.hotstart/manifest.json",
        "put org/bert/.hotstart/index.json",
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it, answer lost"])
async def test_crash_at_every_write_is_invisible_and_resumes(
    origin: Origin, tmp_path: Path, after: bool
) -> None:
    """A publisher killed at any write leaves a whole version or an invisible one, and resumes."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    writes = len(DATA) + 3
    for crash_at in range(writes):
        version = f"v{crash_at}"
        reference = parse_reference(f"org/bert@{version}")
        dying = RecordingOrigin(origin, crash_at, after=after)
        with pytest.raises(Crash):
            await publish(dying, folder, reference)
        there = {note.partition(" ")[2] for note in dying.writes}
        manifest_there = f"org/bert/{version}/.hotstart/manifest.json" in there
        assert await is_visible(origin, version) == manifest_there
        if manifest_there:
            await assert_whole(origin, folder, version)

        resuming = RecordingOrigin(origin)
        published = await publish(resuming, folder, reference, alias="prod")
        again = {note.partition(" ")[2] for note in resuming.writes} & there
        # Only the index is ever written twice: to add the entry, and to move the alias.
        assert again <= {"org/bert/.hotstart/index.json"}
        if not there:
            assert published.outcome == Outcome.PUBLISHED
        else:
            assert published.outcome == (Outcome.UNCHANGED if manifest_there else Outcome.RESUMED)
        await assert_whole(origin, folder, version)
        index = await published_index(origin)
        assert index.latest() == index.aliases["prod"] == version


async def test_nothing_local_is_left(
    origin: Origin, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins lie in a temporary folder that is gone afterwards, also after an error or a cancel."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    seen: list[list[str]] = []
    recording = RecordingOrigin(origin, crash_at=len(DATA) + 1)
    recording.before_write = lambda note: seen.append(os.listdir(room))
    with pytest.raises(Crash):
        await publish(recording, model_folder, SEVEN)
    assert any(seen), "the temporary folder lies where TMPDIR says"
    assert os.listdir(room) == []

    uploading = asyncio.Event()
    recording = RecordingOrigin(origin)
    recording.before_write = lambda note: uploading.set()
    task = asyncio.create_task(publish(recording, model_folder, parse_reference("org/bert@8")))
    await uploading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(room) == []


async def test_no_room_for_twins(
    origin: Origin, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder that takes no twin ends the publish with what to set; the same call resumes it."""
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "away"))
        with pytest.raises(NoRoom, match="set TMPDIR"):
            await publish(origin, model_folder, SEVEN)
    assert not await is_visible(origin)
    assert (await publish(origin, model_folder, SEVEN)).outcome == Outcome.RESUMED


async def test_same_bytes_again_is_no_op(origin: Origin, model_folder: Path) -> None:
    """The same publish again writes nothing; with an alias it writes the index alone."""
    first = await publish(origin, model_folder, SEVEN, metadata={"run": "42"})
    recording = RecordingOrigin(origin)
    again = await publish(recording, model_folder, SEVEN)
    assert recording.writes == []
    assert (again.outcome, again.published_at) == (Outcome.UNCHANGED, first.published_at)
    assert again.twins == first.twins

    again = await publish(recording, model_folder, SEVEN, alias="prod")
    assert recording.writes == ["put org/bert/.hotstart/index.json"]
    assert again.aliases == ("prod",)

    with pytest.raises(VersionRefused, match=r"other metadata, \{'run': '42'\}"):
        await publish(origin, model_folder, SEVEN, metadata={"run": "43"})


async def test_missing_index_entry_is_added_again(origin: Origin, model_folder: Path) -> None:
    """Publishing again what the index does not name enters it again."""
    await publish(origin, model_folder, SEVEN)
    await origin.delete("org/bert/.hotstart/index.json")
    published = await publish(origin, model_folder, SEVEN, alias="prod")
    assert published.outcome == Outcome.UNCHANGED
    index = await published_index(origin)
    assert index.resolve("prod") == "7"


async def test_damaged_version_is_not_called_unchanged(origin: Origin, model_folder: Path) -> None:
    """A published version that lost an object, or had it replaced, is refused with the way to mend it."""
    await publish(origin, model_folder, SEVEN)
    await origin.delete("org/bert/7/config.json")
    await origin.put("org/bert/7/tokenizer.json", b"{}")
    with pytest.raises(VersionRefused, match=r"config\.json; tokenizer\.json is gone or replaced"):
        await publish(origin, model_folder, SEVEN)
    await unpublish(origin, SEVEN)
    await publish(origin, model_folder, SEVEN)
    await assert_whole(origin, model_folder)


@pytest.mark.parametrize("published", [True, False], ids=["published", "claimed"])
async def test_other_bytes_are_refused(origin: Origin, model_folder: Path, published: bool) -> None:
    """Other bytes for a published or claimed version are refused, named, and nothing is written."""
    if published:
        await publish(origin, model_folder, SEVEN)
    else:
        with pytest.raises(Crash):
            await publish(RecordingOrigin(origin, crash_at=2), model_folder, SEVEN)
    (model_folder / "tokenizer.json").write_text("{}")
    (model_folder / "README.md").write_text("new")
    (model_folder / "config.json").unlink()
    recording = RecordingOrigin(origin)
    with pytest.raises(VersionTaken) as refused:
        await publish(recording, model_folder, SEVEN)
    assert recording.writes == []
    assert refused.value.published == published
    assert refused.value.differences[:2] == ("README.md is new", "config.json is missing")
    assert refused.value.differences[2].startswith("tokenizer.json has 2 bytes, not ")
    assert ("is published already" in str(refused.value)) == published
    assert ("hotstart unpublish org/bert@7" in str(refused.value)) != published


async def test_two_publishers_of_other_bytes(origin: Origin, tmp_path: Path) -> None:
    """Of two publishers of one version with other bytes one wins, and the other is told."""
    folders = [make_model(tmp_path / f"model{seed}", seed=seed, mebibytes=1) for seed in range(2)]
    results = await asyncio.gather(
        *(publish(origin, folder, SEVEN) for folder in folders), return_exceptions=True
    )
    failures = [result for result in results if isinstance(result, BaseException)]
    assert len(failures) == 1
    assert isinstance(failures[0], VersionTaken)
    assert failures[0].differences == ("model.safetensors has other bytes",)
    winner = folders[[isinstance(result, BaseException) for result in results].index(False)]
    await assert_whole(origin, winner)


async def test_two_publishers_of_same_bytes(origin: Origin, tmp_path: Path) -> None:
    """Two publishers of one version with the same bytes both end well, with one whole version."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    results = await asyncio.gather(*(publish(origin, folder, SEVEN) for _ in range(2)))
    assert sorted(result.outcome for result in results) != [Outcome.UNCHANGED, Outcome.UNCHANGED]
    await assert_whole(origin, folder)
    index = await published_index(origin)
    assert [entry.version for entry in index.versions] == ["7"]


async def test_many_versions_at_once_keep_their_order(origin: Origin, tmp_path: Path) -> None:
    """Publishers of several versions of a model lose no entry, and published_at rises without ties."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    versions = [str(number) for number in range(4)]
    await asyncio.gather(
        *(
            publish(origin, folder, parse_reference(f"org/bert@{version}"), now=lambda: 1_000)
            for version in versions
        )
    )
    index = await published_index(origin)
    assert sorted(entry.version for entry in index.versions) == versions
    times = [entry.published_at for entry in index.versions]
    assert times == sorted(set(times))


async def test_version_with_the_name_of_an_alias(origin: Origin, model_folder: Path) -> None:
    """A version named as an alias, and an alias named as a version, are refused before any write."""
    await publish(origin, model_folder, SEVEN, alias="prod")
    recording = RecordingOrigin(origin)
    with pytest.raises(AliasClash, match="'prod' is an alias already"):
        await publish(recording, model_folder, parse_reference("org/bert@prod"))
    with pytest.raises(AliasClash, match="'7' is a version already"):
        await publish(recording, model_folder, parse_reference("org/bert@8"), alias="7")
    with pytest.raises(AliasClash, match="'8' is a version already"):
        await publish(recording, model_folder, parse_reference("org/bert@8"), alias="8")
    assert recording.writes == []


async def test_adopted_version_is_not_published_over(origin: Origin, model_folder: Path) -> None:
    """A folder of plain files at the origin is somebody's version: it is refused, not claimed."""
    await origin.put("org/bert/7/config.json", b"{}")
    recording = RecordingOrigin(origin)
    with pytest.raises(VersionRefused, match="is adopted"):
        await publish(recording, model_folder, SEVEN)
    with pytest.raises(AliasClash, match="'7' is a version already"):
        await publish(recording, model_folder, parse_reference("org/bert@8"), alias="7")
    assert recording.writes == []


async def test_file_that_changes_is_refused(origin: Origin, model_folder: Path) -> None:
    """A file written to while it is published ends the publish; nothing of it becomes visible."""
    recording = RecordingOrigin(origin)

    def change(note: str) -> None:
        if note == "upload org/bert/7/tokenizer.json":
            with (model_folder / "tokenizer.json").open("r+b") as file:
                file.write(b"[")

    recording.before_write = change
    with pytest.raises(FileChanged, match=r"tokenizer\.json changed while it was being published"):
        await publish(recording, model_folder, SEVEN)
    assert not await is_visible(origin)
    assert "org/bert/7/tokenizer.json" not in await everything(origin)
    with pytest.raises(VersionTaken, match=r"tokenizer\.json has other bytes"):
        await publish(origin, model_folder, SEVEN)


async def test_object_with_other_bytes_is_refused(origin: Origin, model_folder: Path) -> None:
    """A resume does not trust an object that is not of the bytes that are published."""
    with pytest.raises(Crash):
        await publish(RecordingOrigin(origin, crash_at=1), model_folder, SEVEN)
    await origin.put("org/bert/7/config.json", (model_folder / "config.json").read_bytes().upper())
    with pytest.raises(VersionRefused, match=r"has config\.json already, with other bytes"):
        await publish(origin, model_folder, SEVEN)
    assert not await is_visible(origin)
    await unpublish(origin, SEVEN)
    await publish(origin, model_folder, SEVEN)
    await assert_whole(origin, model_folder)


async def test_unpublished_while_it_is_published(origin: Origin, model_folder: Path) -> None:
    """A publish whose claim was taken away under it does not become visible with holes."""

    class Unpublishing(RecordingOrigin):
        is_done = False

        async def list(self, prefix: str, *, recursive: bool) -> Listing:
            if not self.is_done and any(note.startswith("upload") for note in self.writes):
                self.is_done = True
                await unpublish(origin, SEVEN)
            return await super().list(prefix, recursive=recursive)

    recording = Unpublishing(origin)
    with pytest.raises(VersionRefused, match="was unpublished while it was being published"):
        await publish(recording, model_folder, SEVEN)
    assert not await is_visible(origin)


async def test_unfit_origin_is_refused(origin: Origin, model_folder: Path) -> None:
    """An origin that ignores conditions on writes is refused before anything is written."""

    class Unfit(RecordingOrigin):
        async def check_publishable(self) -> None:
            raise OriginUnfit(self.url, "checking", "it ignores If-None-Match: *")

    recording = Unfit(origin)
    with pytest.raises(OriginUnfit):
        await publish(recording, model_folder, SEVEN)
    await publish(origin, model_folder, SEVEN)
    with pytest.raises(OriginUnfit):
        await move_aliases(recording, MODEL, {"prod": "7"}, Layout(), now_ms())
    assert recording.writes == []


async def test_twin_is_what_zstd_reads(origin: Origin, model_folder: Path, tmp_path: Path) -> None:
    """The zstd command gives the file back from its twin, byte for byte."""
    published = await publish(origin, model_folder, SEVEN)
    assert [twin.path for twin in published.twins] == TWINS
    assert all(0.5 < twin.size / twin.file_size < 0.97 for twin in published.twins)
    packed, unpacked = tmp_path / "twin.zst", tmp_path / "twin"
    packed.write_bytes(await content(origin, "org/bert/7/model.safetensors.zst"))
    zstd = Path(sys.executable).parent / "zstd"
    process = await asyncio.create_subprocess_exec(zstd, "-d", "-q", packed, "-o", unpacked)
    assert await process.wait() == 0
    assert unpacked.read_bytes() == (model_folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "asked", [{".zst"}, {".zsp"}, {".zst", ".zsp"}], ids=lambda asked: "".join(sorted(asked))
)
async def test_twins_that_are_asked_for(origin: Origin, tmp_path: Path, asked: set[str]) -> None:
    """Those are made, and no others; byte planes are the file regrouped, as unpack finds."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    published = await publish(origin, folder, SEVEN, twins=TwinChoice(frozenset(asked)))
    assert {twin.path for twin in published.twins} == {f"model.safetensors{suffix}" for suffix in asked}
    await assert_whole(origin, folder)
    if ".zsp" in asked:
        (tmp_path / "twin.zsp").write_bytes(await content(origin, "org/bert/7/model.safetensors.zsp"))
        unpack_file(tmp_path / "twin.zsp", tmp_path / "plain", force=False)
        assert (tmp_path / "plain").read_bytes() == (folder / "model.safetensors").read_bytes()


async def test_planes_come_only_where_they_beat_frames(origin: Origin, tmp_path: Path) -> None:
    """By default byte planes are kept beside zstd frames, or alone, where they are smaller by 3%."""
    noise = numpy.random.default_rng(0)
    folder = tmp_path / "model"
    folder.mkdir()
    # Bytes that compress, and are no wider: planes of them are the same frames.
    save_file({"t": noise.integers(0, 9, 1 << 20, dtype=numpy.uint8)}, folder / "bytes.safetensors")
    # Exponents between noise: frames save nothing, planes a sixteenth.
    words = noise.integers(0, 1 << 64, 1 << 17, dtype=numpy.uint64) & ((1 << 60) - 1)
    save_file({"t": words}, folder / "planes.safetensors")
    save_file({"t": noise.normal(size=1 << 18).astype(numpy.float32)}, folder / "floats.safetensors")
    published = await publish(origin, folder, SEVEN)
    assert [twin.path for twin in published.twins] == [
        "bytes.safetensors.zst",
        "floats.safetensors.zsp",
        "floats.safetensors.zst",
        "planes.safetensors.zsp",
    ]
    await assert_whole(origin, folder)


async def test_file_in_parts(origin: Origin, tmp_path: Path) -> None:
    """A file that goes up in parallel parts, with several pieces and frames, arrives whole."""
    folder = make_model(tmp_path / "model", mebibytes=18)
    published = await publish(origin, folder, SEVEN)
    assert published.size > 16 << 20
    await assert_whole(origin, folder)
    assert (await publish(origin, folder, SEVEN)).outcome == Outcome.UNCHANGED


async def test_noise_gets_no_twin(origin: Origin, tmp_path: Path) -> None:
    """A file in which no frame of tensors saves 3% gets no twin, and a file without tensors none either."""
    folder = tmp_path / "noise"
    folder.mkdir()
    noise = numpy.frombuffer(numpy.random.default_rng(0).bytes(1 << 20), dtype=numpy.uint8)
    save_file({"noise": noise}, folder / "model.safetensors")
    save_file({}, folder / "empty.safetensors")
    (folder / "nothing.txt").touch()
    published = await publish(origin, folder, SEVEN)
    assert published.twins == ()
    assert published.files == 3
    await assert_whole(origin, folder)


async def test_sharded_model(origin: Origin, tmp_path: Path) -> None:
    """Every shard is published with twins of its own, those that pay for it."""
    folder = make_model(tmp_path / "model", mebibytes=3, shards=3)
    published = await publish(origin, folder, SEVEN)
    assert [twin.path for twin in published.twins] == [
        "model-00001-of-00003.safetensors.zsp",
        "model-00001-of-00003.safetensors.zst",
        "model-00002-of-00003.safetensors.zsp",
        "model-00002-of-00003.safetensors.zst",
        "model-00003-of-00003.safetensors.zst",
    ]
    await assert_whole(origin, folder)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_hidden(folder: Path) -> None:
    _emptied(folder)
    (folder / ".DS_Store").touch()


def _truncated(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(4000)


def _without_shard(folder: Path) -> None:
    shutil.rmtree(folder)
    make_model(folder, mebibytes=1, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (_emptied, "it holds no files"),
    "missing": (shutil.rmtree, "it is not there"),
    "only hidden": (_only_hidden, "no files of a model"),
    "truncated": (_truncated, r"model\.safetensors: malformed Safetensors header: describes a file of"),
    "no header": (
        lambda folder: (folder / "x.safetensors").touch(),
        r"x\.safetensors: malformed Safetensors header: 0 bytes",
    ),
    "huge header": (
        lambda folder: (folder / "x.safetensors").write_bytes(b"\xff\xff\xff\x03\0\0\0\0{}"),
        "but the whole file has 10",
    ),
    "missing shard": (_without_shard, r"lacks its shard model-00002-of-00002\.safetensors"),
    ".hotstart": (lambda folder: (folder / "sub" / ".hotstart").mkdir(parents=True), "the origin's own"),
    "twin": (lambda folder: (folder / "model.safetensors.zst").touch(), "is a twin: twins are made"),
    "twin alone": (lambda folder: (folder / "x.safetensors.zsp").touch(), "is a twin: twins are made"),
    "broken link": (lambda folder: (folder / "x").symlink_to("nowhere"), "x is a broken link"),
    "loop of links": (lambda folder: (folder / "x").symlink_to("x"), "x is a broken link"),
    "linked folder": (lambda folder: (folder / "x").symlink_to("1_Pooling"), "x is a link to a folder"),
    "linked to itself": (lambda folder: (folder / "x").symlink_to("."), "x is a link to a folder"),
    "bad name": (lambda folder: (folder / "a:b").touch(), "characters .* are not allowed: rename it"),
    "not UTF-8": (lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).touch(), "rename it"),
    "unknown to Unicode": (lambda folder: (folder / "\u0378").touch(), "does not know: rename it"),
    "not NFC": (lambda folder: (folder / "e\u0301").touch(), "normal form C: rename it"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_folder_is_refused(case: str, model_folder: Path, tmp_path: Path) -> None:
    """A folder that cannot be published as it is is refused with what is wrong, before any write."""
    spoil, message = REFUSED[case]
    spoil(model_folder)
    async with open_origin(f"file://{tmp_path / 'origin'}", {}) as origin:
        recording = RecordingOrigin(origin)
        with pytest.raises(FolderRefused, match=message):
            await publish(recording, model_folder, SEVEN)
    assert recording.writes == []


async def test_hidden_folders_and_special_files_are_left_out(origin: Origin, model_folder: Path) -> None:
    """Hidden folders and what is no file stay out, and the result names them; a dot file is a file."""
    (model_folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (model_folder / ".git" / "objects").mkdir(parents=True)
    (model_folder / ".git" / "config").touch()
    (model_folder / "1_Pooling" / ".DS_Store").touch()
    os.mkfifo(model_folder / "pipe")
    published = await publish(origin, model_folder, SEVEN)
    assert [(item.path, item.reason) for item in published.left_out] == [
        (".git/", "hidden"),
        ("1_Pooling/.DS_Store", "no part of a model"),
        ("pipe", "neither file nor folder"),
    ]
    assert published.files == len(FILES) + 1
    assert await origin.head("org/bert/7/.gitattributes") is not None


async def test_hub_cache_snapshot_is_published(origin: Origin, model_folder: Path, tmp_path: Path) -> None:
    """A snapshot in the Hub's cache, a folder of links to blobs elsewhere, is published whole."""
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "main"
    for path in FILES:
        data = (model_folder / path).read_bytes()
        blob = blobs / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(os.path.relpath(blob, (snapshot / path).parent))
    await publish(origin, snapshot, SEVEN)
    await assert_whole(origin, model_folder)
