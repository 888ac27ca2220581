"""Adding twins to an adopted version: nothing that is there is touched, one document more names the twins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hotstart.wire.adoption import Layout
from hotstart.wire.catalog import Catalog
from hotstart.wire.errors import FormatError
from hotstart.wire.layout import twins_key, version_prefix
from hotstart.wire.manifest import File, Manifest
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference
from hotstart.wire.twins import AddedTwin, AddedTwins
from hotstart_proxy.origins.base import AlreadyExists, Origin
from hotstart_proxy.origins.catalog import catalog_of, perform

from .errors import NoRoom, UnknownVersion, VersionRefused
from .folder import SAFETENSORS_SUFFIX, Signature, SourceFile
from .inventory import read_header
from .jobs import in_thread, run_bounded
from .progress import NoProgress, Progress, Stage
from .publisher import Outcome, PublishedTwin
from .twin_uploads import TwinChoice, upload_twins
from .uploads import Uploader, clear_unfinished
from .version_states import exact_version, read_version_state

__all__ = ["TwinsAdded", "add_twins"]

# Each lies in the temporary folder together with one of its twins.
_FILES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class TwinsAdded:
    """What adding twins did.

    Attributes:
        outcome: UNCHANGED where it had those twins already, or none would be worth it.
        twins: those it has now.
        sent_objects: how many of them were sent.
        sent_bytes: bytes of those.
    """

    model: str
    version: str
    outcome: Outcome
    twins: tuple[PublishedTwin, ...]
    sent_objects: int = 0
    sent_bytes: int = 0


async def add_twins(
    origin: Origin,
    reference: Reference,
    layout: Layout,
    now_ms: int,
    progress: Progress | None = None,
    *,
    choice: TwinChoice | None = None,
) -> TwinsAdded:
    """Make twins for the Safetensors files of an adopted version, of the suffixes of which it has none.

    Cancelled, it leaves nothing on this machine, and at the origin twins that no document names: they do not
    count, and the same call goes on with them.

    Args:
        origin: entered.
        reference: must name a version.
        layout: where adopted versions lie.
        now_ms: milliseconds since the epoch.
        progress: a watcher.
        choice: which to make; None for the default choice.

    Raises:
        VersionRefused: it is published, so its twins were made then; or its files were replaced since it got
            twins.
        UnknownVersion: there is no such version, or it is not adopted (yet).
        FormatError: one of its Safetensors files is malformed.
        NoRoom: files do not fit the temporary folder.
        OriginUnfit: the origin ignores conditions on writes.
        InvalidReference, OriginError
    """
    model, version = exact_version(reference)
    watcher, wanted = progress or NoProgress(), choice or TwinChoice()
    manifest = await _adopted_manifest(origin, model, version, layout, now_ms)
    there: list[PublishedTwin] = []
    missing: list[str] = []
    for suffix in wanted.suffixes:
        found = await _twins_there(origin, manifest, suffix)
        there += found or ()
        if found is None:
            missing.append(suffix)
    if not missing:
        return TwinsAdded(model, version, Outcome.UNCHANGED, _by_path(there))
    await origin.check_publishable()
    listing = await origin.list(version_prefix(model, version), recursive=True)
    uploader = Uploader(origin, model, version, {item.key for item in listing.objects}, watcher)
    files = [file for file in manifest.files if file.path.endswith(SAFETENSORS_SUFFIX)]
    watcher.expect(Stage.FETCHING, sum(file.size for file in files))
    watcher.expect(Stage.FRAMING, sum(file.size for file in files) * len(missing))
    try:
        temporary = tempfile.TemporaryDirectory(prefix="hotstart-publish-")
    except OSError as error:
        raise NoRoom(tempfile.gettempdir(), error.strerror or str(error)) from error
    with temporary as room:
        results = await run_bounded(
            _FILES_AT_ONCE,
            [
                partial(
                    _add_twins, origin, uploader, file, Path(room) / str(number), missing, wanted, watcher
                )
                for number, file in enumerate(files)
            ],
        )
    made = [one for result in results for one in result]
    for suffix in missing:
        added = tuple(twin for twin, _ in made if twin.twin.suffix == suffix)
        if added:
            await _put_document(origin, AddedTwins(model, version, suffix, added))
    if made:
        await clear_unfinished(origin, model, version)
    sizes = {file.path: file.size for file in files}
    new = [PublishedTwin(item.path + item.twin.suffix, item.twin.size, sizes[item.path]) for item, _ in made]
    return TwinsAdded(
        model=model,
        version=version,
        outcome=Outcome.PUBLISHED if made else Outcome.UNCHANGED,
        twins=_by_path([*there, *new]),
        sent_objects=sum(sent for _, sent in made),
        sent_bytes=sum(item.twin.size for item, sent in made if sent),
    )


def _by_path(twins: Iterable[PublishedTwin]) -> tuple[PublishedTwin, ...]:
    return tuple(sorted(twins, key=lambda twin: twin.path))


async def _adopted_manifest(
    origin: Origin, model: str, version: str, layout: Layout, now_ms: int
) -> Manifest:
    state = await read_version_state(origin, model, version)
    if state.manifest is not None:
        raise VersionRefused(
            model,
            version,
            "is published: its twins were made as it was published, where they pay, and its manifest never "
            "changes",
        )
    if state.claim is not None:
        raise VersionRefused(
            model, version, "is a publish that has not finished: publish the folder again, twins come with it"
        )
    catalog = catalog_of(origin, layout)
    data = await perform(origin, catalog.manifest(model, version, now_ms))
    if data is None:
        raise await _why_not_adopted(origin, catalog, model, version, now_ms)
    return Manifest.parse(data)


async def _why_not_adopted(
    origin: Origin, catalog: Catalog, model: str, version: str, now_ms: int
) -> UnknownVersion | VersionRefused:
    survey = await perform(origin, catalog.survey(model, now_ms))
    prefix = catalog.layout.version_prefix(model, version)
    for ignored in survey.ignored:
        if prefix is not None and ignored.key.startswith(prefix):
            return VersionRefused(model, version, f"is not adopted: {ignored.key}: {ignored.reason}")
    known = () if survey.index is None else [entry.version for entry in reversed(survey.index.versions)]
    return UnknownVersion(origin.url, f"version {model}@{version}", known)


async def _twins_there(origin: Origin, manifest: Manifest, suffix: str) -> tuple[PublishedTwin, ...] | None:
    """Return the twins of a suffix that were added before; None where there is no document of them."""
    key = twins_key(manifest.model, manifest.version, suffix)
    found = await origin.read(key)
    if found is None or found.data is None:
        return None
    ids = {file.path: file.id for file in manifest.files}
    stale = [item.path for item in AddedTwins.parse(found.data).twins if ids.get(item.path) != item.file_id]
    if stale:
        raise VersionRefused(
            manifest.model,
            manifest.version,
            f"got twins before {', '.join(stale[:5])} was replaced, and those no longer count: delete {key} "
            f"and the {suffix} objects beside the files, then run this again",
        )
    return tuple(
        PublishedTwin(file.path + twin.suffix, twin.size, file.size)
        for file in manifest.files
        for twin in file.twins
        if twin.suffix == suffix
    )


async def _add_twins(
    origin: Origin,
    uploader: Uploader,
    file: File,
    room: Path,
    suffixes: Sequence[str],
    choice: TwinChoice,
    progress: Progress,
) -> list[tuple[AddedTwin, bool]]:
    """Fetch a file, make its twins, put those that are worth it; return them and whether each was sent."""
    source = await _fetch(origin, file, room, progress)
    try:
        header = await in_thread(lambda stop: read_header(source))
    except FormatError as error:
        raise FormatError(f"{error.what} of {file.path}", error.reason) from error
    put = await upload_twins(
        uploader,
        source,
        header,
        None,
        room.with_name(f"{room.name}-twin"),
        suffixes,
        choice,
        progress,
        twin_bytes={twin.suffix: twin.size for twin in file.twins},
    )
    source.location.unlink()
    return [(AddedTwin(file.path, file.id, twin), arrival.sent) for twin, arrival in put]


async def _fetch(origin: Origin, file: File, destination: Path, progress: Progress) -> SourceFile:
    try:
        with destination.open("xb") as target:
            if file.size:
                async with origin.get(file.origin, ByteRange(0, file.size)) as chunks:
                    async for chunk in chunks:
                        target.write(chunk)
                        progress.advance(Stage.FETCHING, len(chunk))
    except OSError as error:
        raise NoRoom(str(destination.parent), error.strerror or str(error)) from error
    return SourceFile(file.path, destination, Signature.of(destination.stat()))


async def _put_document(origin: Origin, added: AddedTwins) -> None:
    key = twins_key(added.model, added.version, added.suffix)
    try:
        await origin.put(key, added.dump(), create_only=True, media_type="application/json")
    except AlreadyExists:
        found = await origin.read(key)
        # Somebody else added the same ones at the same time: etags of the objects included.
        if found is None or found.data is None or AddedTwins.parse(found.data) != added:
            raise
