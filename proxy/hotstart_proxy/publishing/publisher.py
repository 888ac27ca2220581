"""Publishing a folder as a version: origin layout 1.

The claim is put first and the manifest last, both create-only, so a version is visible whole or not at all,
and whatever ends a publish in between, the same command goes on where it ended. The index comes after the
manifest: readers find a version whose entry is still missing, and publishing again adds it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeAlias

from hotstart.wire.claim import Claim
from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import HotstartError
from hotstart.wire.index import AliasClash, Index, IndexEntry
from hotstart.wire.layout import begin_key, file_key, manifest_key, version_prefix
from hotstart.wire.manifest import TWIN_SUFFIXES, File, Manifest, Twin
from hotstart.wire.media_types import media_type
from hotstart.wire.references import Reference, check_alias
from hotstart_proxy.origins.base import AlreadyExists, Origin, OriginError

from .errors import NoRoom, VersionGone, VersionRefused, VersionTaken, first_few
from .folder import LeftOut, scan_folder
from .index_swaps import read_index, swap_index
from .inventory import Inventory, ItemisedFile, read_headers, take_inventory
from .jobs import in_thread, run_bounded
from .progress import NoProgress, Progress, Stage
from .twin_uploads import TwinChoice, upload_twins
from .uploads import Arrival, Uploader, clear_unfinished
from .version_states import VersionState, exact_version, read_version_state

__all__ = ["Outcome", "Published", "PublishedTwin", "now_ms", "publish"]

# Files on their way at once; a large one is sent in parallel parts by itself.
_FILES_AT_ONCE = 4
# Twins at once: one is made while another is sent, so at most two lie in the temporary folder.
_TWINS_AT_ONCE = 2


# The path of a file, its entry in the manifest or its twin's, and the object.
_Arrived: TypeAlias = tuple[str, File | Twin, Arrival]
_Job: TypeAlias = Callable[[], Awaitable[list[_Arrived]]]


class Outcome(StrEnum):
    """How a publish ended."""

    PUBLISHED = "published"
    RESUMED = "resumed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class PublishedTwin:
    """A twin, beside the size of its file, both in bytes."""

    path: str
    size: int
    file_size: int


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did.

    Attributes:
        model, version: what was published.
        outcome: RESUMED where an earlier publish of the same files had begun, UNCHANGED where it had ended or
            another publisher of the same files was faster.
        published_at: milliseconds since the epoch, as the index has it.
        files: how many.
        size: bytes of them, without twins.
        sent_objects: how many files and twins were sent, without those that were there.
        sent_bytes: bytes of those.
        twins: all that the version has.
        left_out: what lies in the folder and is not published.
        aliases: what means the version now.
    """

    model: str
    version: str
    outcome: Outcome
    published_at: int
    files: int
    size: int
    sent_objects: int
    sent_bytes: int
    twins: tuple[PublishedTwin, ...]
    left_out: tuple[LeftOut, ...]
    aliases: tuple[str, ...]


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def publish(
    origin: Origin,
    folder: Path,
    reference: Reference,
    *,
    alias: str | None = None,
    metadata: Mapping[str, str] | None = None,
    twins: TwinChoice | None = None,
    progress: Progress | None = None,
    now: Callable[[], int] = now_ms,
) -> Published:
    """Publish all files of a folder as a version, or go on with a publish of the same files.

    Cancelled, it leaves nothing on this machine, and at the origin an invisible version that the same call
    completes.

    Args:
        origin: entered.
        folder: see ``scan_folder`` for what of it is published.
        reference: must name a version.
        alias: made to mean the version, in the same swap that enters it in the index.
        metadata: the publisher's own strings, for the manifest.
        twins: which to make; None for the default choice.
        progress: a watcher.
        now: milliseconds since the epoch.

    Raises:
        InvalidReference, AliasClash, FolderRefused, UnreadableFile: before anything is written.
        VersionTaken: the version has other bytes.
        VersionRefused: it is adopted, or has other metadata.
        VersionGone: somebody unpublished it meanwhile; what was put is taken back.
        FileChanged: the folder is being written to.
        NoRoom: twins do not fit the temporary folder.
        OriginUnfit: the origin ignores conditions on writes.
        OriginError, IndexContended
    """
    model, version = exact_version(reference)
    publication = _Publication(
        origin,
        model,
        version,
        None if alias is None else check_alias(alias),
        dict(metadata or {}),
        twins or TwinChoice(),
        progress or NoProgress(),
        now,
    )
    return await publication.run(folder)


@dataclass(frozen=True, slots=True)
class _Publication:
    origin: Origin
    model: str
    version: str
    alias: str | None
    metadata: Mapping[str, str]
    twins: TwinChoice
    progress: Progress
    now: Callable[[], int]

    async def run(self, folder: Path) -> Published:
        contents = await in_thread(lambda stop: scan_folder(folder))
        headers = await read_headers(contents)
        # Before the first read: it creates a directory that is to become an origin.
        await self.origin.check_publishable()
        await self._check_names()
        before = await read_version_state(self.origin, self.model, self.version)
        if before.is_adopted:
            raise VersionRefused(
                self.model,
                self.version,
                "is adopted: plain files were put there by other means. Publish under another version id, or "
                f"add twins to it with hotstart publish --twins {self.model}@{self.version}",
            )
        inventory = await take_inventory(contents, headers, self.model, self.version, self.progress)
        claim = inventory.claim(self.model, self.version)
        self._check_same(before, claim)
        arrivals: list[Arrival] = []
        outcome = Outcome.PUBLISHED if before.claim is None else Outcome.RESUMED
        manifest, manifest_bytes = before.manifest, before.manifest_bytes
        if manifest is None:
            claim_etag = await self._put_claim(before, claim)
            uploader = Uploader(self.origin, self.model, self.version, before.objects.keys(), self.progress)
            try:
                manifest, arrivals = await self._upload(inventory, uploader)
                await self._check_still_there(claim_etag, arrivals)
            except HotstartError as error:
                if await self._take_back(inventory, claim_etag, error):
                    raise VersionGone(self.model, self.version) from error
                raise
            manifest_bytes = manifest.dump()
            other = await self._put_manifest(manifest_bytes, claim)
            if other is not None:
                manifest, manifest_bytes = other
                outcome = Outcome.UNCHANGED
            if before.claim is not None:
                await clear_unfinished(self.origin, self.model, self.version)
        else:
            outcome = Outcome.UNCHANGED
        entry = IndexEntry(self.version, manifest.published_at, sha256_id(manifest_bytes))
        index = await swap_index(self.origin, self.model, partial(self._entered, entry))
        entered = index.entry(self.version)
        assert entered is not None
        sent = [arrival for arrival in arrivals if arrival.sent]
        return Published(
            model=self.model,
            version=self.version,
            outcome=outcome,
            published_at=entered.published_at,
            files=len(inventory.files),
            size=inventory.size,
            sent_objects=len(sent),
            sent_bytes=sum(arrival.size for arrival in sent),
            twins=tuple(
                PublishedTwin(file.path + twin.suffix, twin.size, file.size)
                for file in manifest.files
                for twin in file.twins
            ),
            left_out=contents.left_out,
            aliases=tuple(sorted(name for name, target in index.aliases.items() if target == self.version)),
        )

    async def _check_names(self) -> None:
        """Refuse, before anything is sent, names that the index would refuse at the end."""
        index, _ = await read_index(self.origin, self.model)
        self._entered(IndexEntry(self.version, self.now()), index)
        if self.alias is None:
            return
        # Adopted versions stand in no index.
        listing = await self.origin.list(f"{self.model}/", recursive=False)
        if f"{self.model}/{self.alias}/" in listing.folders:
            raise AliasClash(self.model, self.alias, "is a version already: choose another alias")

    def _entered(self, entry: IndexEntry, index: Index) -> Index:
        changed = index.with_version(entry)
        return changed if self.alias is None else changed.with_alias(self.alias, self.version)

    def _check_same(self, state: VersionState, claim: Claim) -> None:
        contents = state.contents()
        differences = () if contents is None else contents.differences(claim)
        if differences:
            raise VersionTaken(self.model, self.version, differences, published=state.manifest is not None)
        damaged = [] if state.manifest is None else _damaged(state.manifest, state)
        if damaged:
            raise VersionRefused(
                self.model,
                self.version,
                f"is published, but at the origin {first_few(damaged)} is gone or replaced: clear it with "
                f"hotstart unpublish {self.model}@{self.version}, then publish again",
            )
        # Published without is published with whatever it has: nothing was said about it.
        if state.manifest is not None and self.metadata and self.metadata != state.manifest.metadata:
            raise VersionRefused(
                self.model,
                self.version,
                f"is published with the same files but other metadata, {dict(state.manifest.metadata)}, and "
                "a version never changes: leave --metadata out, or choose another version id",
            )

    async def _put_claim(self, before: VersionState, claim: Claim) -> str:
        if before.claim_etag is not None:
            return before.claim_etag
        try:
            info = await self.origin.put(
                begin_key(self.model, self.version),
                claim.dump(),
                create_only=True,
                media_type="application/json",
            )
        except AlreadyExists:
            # Another publisher came first; with the same files both may go on.
            state = await read_version_state(self.origin, self.model, self.version)
            self._check_same(state, claim)
            if state.claim_etag is None:
                raise
            return state.claim_etag
        return info.etag

    async def _upload(self, inventory: Inventory, uploader: Uploader) -> tuple[Manifest, list[Arrival]]:
        """Put every file and twin; return the manifest that names them, and what was put."""
        framing = [item.source.size for item in inventory.files if item.header is not None]
        self.progress.expect(Stage.FRAMING, sum(framing) * len(self.twins.suffixes))
        try:
            temporary = tempfile.TemporaryDirectory(prefix="hotstart-publish-")
        except OSError as error:
            raise NoRoom(tempfile.gettempdir(), error.strerror or str(error)) from error
        with temporary as room:
            # Largest first, so that no long job begins when all others have ended.
            order = sorted(inventory.files, key=lambda item: item.source.size, reverse=True)
            framed = [item for item in order if item.header is not None]
            uploads: list[_Job] = [partial(self._upload_file, uploader, item) for item in order]
            twins: list[_Job] = [
                partial(self._upload_twins, uploader, item, Path(room) / str(number))
                for number, item in enumerate(framed)
            ]
            groups = await run_bounded(
                2, (lambda: run_bounded(_FILES_AT_ONCE, uploads), lambda: run_bounded(_TWINS_AT_ONCE, twins))
            )
        arrived = [one for group in groups for results in group for one in results]
        files = {path: item for path, item, _ in arrived if isinstance(item, File)}
        for path, item, _ in arrived:
            if isinstance(item, Twin):
                by_suffix = sorted((*files[path].twins, item), key=lambda twin: twin.suffix)
                files[path] = replace(files[path], twins=tuple(by_suffix))
        index, _ = await read_index(self.origin, self.model)
        manifest = Manifest(
            self.model,
            self.version,
            index.next_published_at(self.now()),
            tuple(files[path] for path in sorted(files)),
            dict(self.metadata),
        )
        return manifest, [arrival for _, _, arrival in arrived]

    async def _upload_file(self, uploader: Uploader, item: ItemisedFile) -> list[_Arrived]:
        path = item.source.path
        arrival = await uploader.upload_source(item.source, item.sha256, media_type(path))
        return [(path, item.file(arrival.origin), arrival)]

    async def _upload_twins(self, uploader: Uploader, item: ItemisedFile, room: Path) -> list[_Arrived]:
        assert item.header is not None
        put = await upload_twins(
            uploader,
            item.source,
            item.header,
            item.sha256,
            room,
            self.twins.suffixes,
            self.twins,
            self.progress,
            twin_bytes={},
        )
        return [(item.source.path, twin, arrival) for twin, arrival in put]

    async def _check_still_there(self, claim_etag: str, arrivals: list[Arrival]) -> None:
        """Look once more before the version becomes visible: somebody may have unpublished it meanwhile."""
        listing = await self.origin.list(version_prefix(self.model, self.version), recursive=True)
        there = {item.key: item.etag for item in listing.objects}
        wanted = {arrival.origin.key: arrival.origin.etag for arrival in arrivals}
        wanted[begin_key(self.model, self.version)] = claim_etag
        if any(there.get(key) != etag for key, etag in wanted.items()):
            raise VersionGone(self.model, self.version)

    async def _take_back(self, inventory: Inventory, claim_etag: str, error: HotstartError) -> bool:
        """Remove what we put if our claim is gone, or goes: it would be adopted, half as it is.

        Returns:
            Whether that is so.
        """
        # What went wrong before is the error to raise.
        with suppress(OriginError):
            listing = await self.origin.list(version_prefix(self.model, self.version), recursive=True)
            there = {item.key: item.etag for item in listing.objects}
            found = there.get(begin_key(self.model, self.version))
            goes = isinstance(error, VersionGone) and found == claim_etag
            if manifest_key(self.model, self.version) not in there and (found is None or goes):
                paths = [item.source.path for item in inventory.files]
                ours = {file_key(self.model, self.version, path) for path in paths}
                ours |= {key + suffix for key in ours for suffix in TWIN_SUFFIXES}
                for key in ours & there.keys():
                    await self.origin.delete(key)
                return True
        return False

    async def _put_manifest(self, data: bytes, claim: Claim) -> tuple[Manifest, bytes] | None:
        """Put the manifest; return the one that stands, if that is not ours."""
        key = manifest_key(self.model, self.version)
        try:
            await self.origin.put(key, data, create_only=True, media_type="application/json")
        except AlreadyExists:
            # Another publisher of the same files was faster, or our own answer was lost: theirs stands.
            state = await read_version_state(self.origin, self.model, self.version)
            self._check_same(state, claim)
            if state.manifest is None:
                raise
            if state.manifest_bytes != data:
                return state.manifest, state.manifest_bytes
        return None


def _damaged(manifest: Manifest, state: VersionState) -> list[str]:
    """Return the paths whose objects are no longer those that were published."""
    etags = {key: item.etag for key, item in state.objects.items()}
    return [
        representation.path
        for file in manifest.files
        for representation in file.representations()
        if etags.get(representation.origin.key) != representation.origin.etag
    ]
