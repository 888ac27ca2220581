"""Reading an origin's tree, sans-IO: which models and versions there are, and their manifests.

Client and proxy read the same tree with different I/O. So what to read is decided here, in generators that
yield requests and are sent the answers; each side has a driver of a few lines that performs them.

What there is: the versions in ``index.json``; versions with a manifest that no index names yet (a publisher
died in between, or is just about to); adopted folders. A claim without a manifest is no version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import layout as keys
from .adoption import (
    ADOPTION_AGE_MS,
    AdoptableFile,
    Ignored,
    Layout,
    adopt_files,
    fingerprint,
    is_ours,
    is_reserved,
    listing_version,
    missing_shard,
    newest,
    too_young,
    weights_indices,
    without_twins,
)
from .digests import sha256_id
from .errors import FormatError, InvalidReference
from .index import Index, IndexEntry, version_order
from .listing import ListedObject, Listing, ListObjects, ObjectBytes, Plan, ReadObject
from .manifest import TWIN_SUFFIXES, Manifest
from .references import RESERVED_PREFIX, check_model, check_version
from .twins import AddedTwins

__all__ = [
    "Catalog",
    "Found",
    "KnownIndex",
    "ListObjects",
    "ListedObject",
    "Listing",
    "ObjectBytes",
    "Plan",
    "ReadObject",
    "Survey",
]

# Listing costs an origin more than a conditional read does, and adopting takes a minute anyway.
RELIST_MS = ADOPTION_AGE_MS
# An index of weights takes about 100 bytes a tensor: room for half a million of them.
MAX_WEIGHTS_INDEX_BYTES = 64 * 1024 * 1024
RESERVED_NAME = f"names that begin {RESERVED_PREFIX} are reserved"
UNFINISHED = "publish not finished: publish the same files again, or hotstart unpublish"


@dataclass(frozen=True, slots=True)
class Found:
    """A version that no index.json names.

    Attributes:
        entry: as if it stood in the index; manifest_id is set, for an adopted version too.
        fingerprint: changes when what the entry was made from does.
        adopted: whether it has no manifest of its own.
    """

    entry: IndexEntry
    fingerprint: str
    adopted: bool


@dataclass(frozen=True, slots=True)
class KnownIndex:
    """All that is known of a model's versions at one moment; hand it back in to ask again at less cost.

    Attributes:
        index: published, adopted and not yet indexed versions in one.
        etag: of index.json; None where there is none.
        published: index.json as it is; None where there is none.
        found: by version, those that index.json does not name.
        listed_at: when the folders were listed, milliseconds since the epoch.
        relist_at: when that has to be done again.
    """

    index: Index
    etag: str | None
    published: Index | None
    found: Mapping[str, Found] = field(default_factory=dict)
    listed_at: int = 0
    relist_at: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """A model's versions, and what lies beside them.

    Attributes:
        index: as in ``KnownIndex``; None where the model has no version at all.
        adopted: the adopted ones among its versions.
        ignored: by rising key.
    """

    index: Index | None
    adopted: frozenset[str]
    ignored: tuple[Ignored, ...]


@dataclass(slots=True)
class _Folders:
    """What a model's folders hold, sorted out: by version (None in a layout without versions)."""

    files: dict[str | None, list[AdoptableFile]] = field(default_factory=dict)
    reserved: dict[str, dict[str, ListedObject]] = field(default_factory=dict)
    ignored: list[Ignored] = field(default_factory=list)


@dataclass(slots=True)
class _Findings:
    """What a look at a model's folders has brought so far."""

    now_ms: int
    known: Mapping[str, Found]
    found: dict[str, Found] = field(default_factory=dict)
    ignored: list[Ignored] = field(default_factory=list)
    relist_at: int = 0


@dataclass(frozen=True, slots=True)
class Catalog:
    """One origin's tree.

    Attributes:
        layout: where folders to adopt lie.
        endpoint, bucket, prefix: the origin's identity, from which adopted content ids are made.
    """

    layout: Layout
    endpoint: str
    bucket: str
    prefix: str

    def models(self) -> Plan[tuple[str, ...]]:
        """Plan: the models, sorted; of folders to adopt only the names are looked at, so one may be empty."""
        models, _ = yield from self._walk()
        return models

    def strays(self) -> Plan[tuple[Ignored, ...]]:
        """Plan: what lies outside of all models and why it does not count, by rising key."""
        _, ignored = yield from self._walk()
        return tuple(sorted(ignored, key=lambda item: item.key))

    def index(self, model: str, now_ms: int, known: KnownIndex | None = None) -> Plan[KnownIndex | None]:
        """Plan: the versions of a model; None if there is no such model.

        Args:
            model: two segments.
            now_ms: the time, milliseconds since the epoch.
            known: an earlier answer, by which this one costs less.

        Raises:
            FormatError: index.json is malformed.
        """
        found, _ = yield from self._look(model, now_ms, known)
        return found

    def survey(self, model: str, now_ms: int) -> Plan[Survey]:
        """Plan: the versions of a model, and everything in its folders that is ignored (errors as index)."""
        known, ignored = yield from self._look(model, now_ms, None)
        return Survey(
            index=None if known is None else known.index,
            adopted=frozenset(
                version for version, found in (known.found if known else {}).items() if found.adopted
            ),
            ignored=tuple(sorted(ignored, key=lambda item: item.key)),
        )

    def manifest(self, model: str, version: str, now_ms: int) -> Plan[bytes | None]:
        """Plan: a version's manifest, exactly as published, or as it follows from an adopted folder.

        None if there is no such version (not finished, or not yet adopted).
        """
        if _fault(check_version, version) is not None:
            return None
        published = yield from _read(keys.manifest_key(model, version))
        if published is not None:
            return published.data
        folders = yield from self._version_folders(model, version)
        reserved = folders.reserved.get(version, {})
        group = version if self.layout.has_version else None
        files, _ = without_twins(folders.files.get(group, []))
        if "begin.json" in reserved or not files or too_young(files, now_ms):
            return None
        if group is None and listing_version(files) != version:
            return None
        if (yield from self._missing_shards(files)) is not None:
            return None
        manifest, _ = yield from self._adopted_manifest(model, version, files, reserved)
        return manifest.dump()

    def _walk(self) -> Plan[tuple[tuple[str, ...], list[Ignored]]]:
        models, ignored = yield from self._walk_levels(self.layout.model_levels)
        if not self.layout.is_native:
            published, _ = yield from self._walk_levels(("{org}", "{name}"))
            for model in published - models:
                if (yield from _read(keys.index_key(model))) is not None:
                    models.add(model)
        return tuple(sorted(models)), ignored

    def _walk_levels(self, levels: tuple[str, ...]) -> Plan[tuple[set[str], list[Ignored]]]:
        ignored: list[Ignored] = []
        places: list[tuple[str, tuple[str, ...]]] = [("", ())]
        for level in levels:
            below: list[tuple[str, tuple[str, ...]]] = []
            for prefix, names in places:
                if not level.startswith("{"):
                    below.append((f"{prefix}{level}/", names))
                    continue
                listing = yield from _list(prefix, recursive=False)
                ignored += [
                    Ignored(item.key, f"lies above the models: expected {self.layout.template}")
                    for item in listing.objects
                    if not is_reserved(item.key) and not item.key.endswith("/")
                ]
                for folder in listing.folders:
                    name = folder[len(prefix) : -1]
                    if is_reserved(name):
                        continue
                    reason = _fault(check_model, name)
                    if reason is None:
                        below.append((folder, (*names, name)))
                    else:
                        ignored.append(Ignored(folder, reason))
            places = below
        return {check_model("/".join(names)) for _, names in places}, ignored

    def _look(
        self, model: str, now_ms: int, known: KnownIndex | None
    ) -> Plan[tuple[KnownIndex | None, list[Ignored]]]:
        etag, published = yield from _read_index(model, known)
        if known is not None and known.etag == etag and known.listed_at <= now_ms < known.relist_at:
            return known, []
        folders = yield from self._folders(model, published)
        findings = _Findings(
            now_ms,
            {} if known is None else known.found,
            ignored=folders.ignored,
            relist_at=now_ms + RELIST_MS,
        )
        indexed = {entry.version for entry in published.versions} if published else set()
        for version in sorted(folders.reserved.keys() - indexed):
            yield from _look_at_published(model, version, folders.reserved[version], findings)
        if not self.layout.has_version:
            _name_listing(folders)
        claimed = {version for version, names in folders.reserved.items() if names.keys() & _CLAIMS}
        for version, files in sorted((name, files) for name, files in folders.files.items() if name):
            if version not in indexed | claimed:
                reserved = folders.reserved.get(version, {})
                yield from self._look_at_adoptable(model, version, files, reserved, findings)
        _drop_aliases(model, published, findings)
        if published is None and not findings.found:
            return None, findings.ignored
        versions = (
            *(published.versions if published else ()),
            *(item.entry for item in findings.found.values()),
        )
        index = Index(
            model,
            published.serial if published else 0,
            tuple(sorted(versions, key=version_order)),
            published.aliases if published else {},
        )
        answer = KnownIndex(index, etag, published, findings.found, now_ms, findings.relist_at)
        return answer, findings.ignored

    def _folders(self, model: str, published: Index | None) -> Plan[_Folders]:
        folders = _Folders()
        native = f"{model}/"
        prefix = self.layout.model_prefix(model)
        if prefix == native and (published is None or not self.layout.has_version):
            listing = yield from _list(native, recursive=True)
            self._sort(model, listing, folders)
            return folders
        # With an index most folders need no look: list those that it does not name, one by one.
        top = yield from _list(native, recursive=False)
        if prefix == native:
            self._sort(model, Listing(top.objects), folders)
        for folder in top.folders:
            name = folder[len(native) : -1]
            if is_reserved(name) or (published is not None and published.entry(name) is not None):
                continue
            whole = prefix == native
            below = yield from _list(folder if whole else f"{folder}{RESERVED_PREFIX}/", recursive=whole)
            self._sort(model, below, folders)
        if prefix is not None and prefix != native:
            listing = yield from _list(prefix, recursive=True)
            self._sort(model, listing, folders)
        return folders

    def _version_folders(self, model: str, version: str) -> Plan[_Folders]:
        folders = _Folders()
        prefix = self.layout.version_prefix(model, version)
        native = keys.version_prefix(model, version)
        if prefix is not None:
            listing = yield from _list(prefix, recursive=True)
            self._sort(model, listing, folders)
        if prefix is None or not native.startswith(prefix):
            reserved = yield from _list(f"{native}{RESERVED_PREFIX}/", recursive=False)
            self._sort(model, reserved, folders)
        return folders

    def _sort(self, model: str, listing: Listing, folders: _Folders) -> None:
        native = f"{model}/"
        for item in listing.objects:
            if item.key.endswith("/"):
                continue  # a folder marker, as consoles make them
            if is_reserved(item.key):
                parts = item.key.removeprefix(native).split("/")
                if item.key.startswith(native) and len(parts) == 3 and parts[1] == RESERVED_PREFIX:
                    folders.reserved.setdefault(parts[0], {})[parts[2]] = item
                elif not is_ours(item.key):
                    folders.ignored.append(Ignored(item.key, RESERVED_NAME))
                continue
            match = self.layout.match(item.key)
            if match is None:
                folders.ignored.append(Ignored(item.key, self.layout.fault(item.key)))
            elif match.model == model:
                folders.files.setdefault(match.version, []).append(AdoptableFile(match.file, item))
        if not self.layout.has_version and self.layout.model_prefix(model) == native:
            # Published versions, and twins added to a listing, lie in folders of their own amid the files.
            ours = tuple(f"{version}/" for version in folders.reserved)
            files = folders.files.get(None, [])
            folders.files[None] = [file for file in files if not file.path.startswith(ours)]

    def _look_at_adoptable(
        self,
        model: str,
        version: str,
        files: list[AdoptableFile],
        reserved: Mapping[str, ListedObject],
        findings: _Findings,
    ) -> Plan[None]:
        plain, twins = without_twins(files)
        folder = self.layout.version_prefix(model, version) or ""
        reason = too_young(plain, findings.now_ms)
        known = findings.known.get(version)
        if reason is not None:
            findings.relist_at = min(findings.relist_at, newest(plain) + ADOPTION_AGE_MS)
            findings.ignored.append(Ignored(folder, reason))
            # It is being rewritten: what was adopted before is served, from copies, until the new state is.
            for name, before in findings.known.items():
                if before.adopted and (name == version or not self.layout.has_version):
                    findings.found[name] = before
            return
        mark = fingerprint(plain, _twins_documents(reserved).values())
        if known is not None and known.fingerprint == mark:
            findings.found[version] = known
            return
        reason = yield from self._missing_shards(plain)
        if reason is not None:
            findings.ignored.append(Ignored(folder, reason))
            return
        manifest, faults = yield from self._adopted_manifest(model, version, plain, reserved)
        findings.ignored += faults
        named = {twin.origin.key for file in manifest.files for twin in file.twins}
        findings.ignored += [
            Ignored(twin.object.key, "a twin that no twins document of this version names")
            for twin in twins
            if twin.object.key not in named
        ]
        entry = IndexEntry(version, manifest.published_at, sha256_id(manifest.dump()))
        findings.found[version] = Found(entry, mark, adopted=True)

    def _missing_shards(self, files: list[AdoptableFile]) -> Plan[str | None]:
        for index in weights_indices(files):
            if index.object.size > MAX_WEIGHTS_INDEX_BYTES:
                return f"{index.path}: {index.object.size} bytes are too many for an index of weights"
            answer = yield from _read(index.object.key)
            if answer is None or answer.etag != index.object.etag:
                return f"{index.path} changed while it was read: it is looked at again"
            assert answer.data is not None
            reason = missing_shard(index, answer.data, files)
            if reason is not None:
                return reason
        return None

    def _adopted_manifest(
        self, model: str, version: str, files: list[AdoptableFile], reserved: Mapping[str, ListedObject]
    ) -> Plan[tuple[Manifest, list[Ignored]]]:
        entries = adopt_files(files, self.endpoint, self.bucket, self.prefix)
        faults: list[Ignored] = []
        for item in _twins_documents(reserved).values():
            answer = yield from _read(item.key)
            if answer is None or answer.data is None:
                continue
            try:
                added = AddedTwins.parse(answer.data)
            except FormatError as error:
                # Without its twins the version is whole; a broken extra must not take it away.
                faults.append(Ignored(item.key, str(error)))
                continue
            entries = added.merge(entries)
        return Manifest(model, version, newest(files), entries), faults


_CLAIMS = frozenset(("begin.json", "manifest.json"))


def _twins_documents(reserved: Mapping[str, ListedObject]) -> dict[str, ListedObject]:
    names = [keys.twins_key("", "", suffix).rpartition("/")[2] for suffix in TWIN_SUFFIXES]
    return {name: reserved[name] for name in names if name in reserved}


def _name_listing(folders: _Folders) -> None:
    files, twins = without_twins(folders.files.pop(None, []))
    if files:
        folders.files[listing_version(files)] = files + twins


def _drop_aliases(model: str, published: Index | None, findings: _Findings) -> None:
    for version in sorted(findings.found.keys() & (published.aliases.keys() if published else set())):
        del findings.found[version]
        findings.ignored.append(
            Ignored(
                keys.version_prefix(model, version), "has the name of an alias: move or rename one of them"
            )
        )


def _look_at_published(
    model: str, version: str, reserved: Mapping[str, ListedObject], findings: _Findings
) -> Plan[None]:
    item = reserved.get("manifest.json")
    if item is None:
        if "begin.json" in reserved:
            findings.ignored.append(Ignored(keys.version_prefix(model, version), UNFINISHED))
        return
    known = findings.known.get(version)
    if known is not None and known.fingerprint == item.etag:
        findings.found[version] = known
        return
    answer = yield from _read(item.key)
    if answer is None or answer.data is None:
        return
    try:
        manifest = Manifest.parse(answer.data)
    except FormatError as error:
        findings.ignored.append(Ignored(item.key, str(error)))
        return
    if (manifest.model, manifest.version) != (model, version):
        findings.ignored.append(Ignored(item.key, f"is of {manifest.model}@{manifest.version}"))
        return
    entry = IndexEntry(version, manifest.published_at, sha256_id(answer.data))
    findings.found[version] = Found(entry, answer.etag, adopted=False)


def _read_index(model: str, known: KnownIndex | None) -> Plan[tuple[str | None, Index | None]]:
    answer = yield from _read(keys.index_key(model), None if known is None else known.etag)
    if answer is None:
        return None, None
    if answer.data is None:
        assert known is not None
        return known.etag, known.published
    index = Index.parse(answer.data)
    if index.model != model:
        raise FormatError("index", f"is of {index.model}, and lies where that of {model} should")
    return answer.etag, index


def _fault(check: Callable[[str], str], name: str) -> str | None:
    try:
        check(name)
    except InvalidReference as error:
        return error.reason
    return None


def _read(key: str, known_etag: str | None = None) -> Plan[ObjectBytes | None]:
    answer = yield ReadObject(key, known_etag)
    assert answer is None or isinstance(answer, ObjectBytes)
    return answer


def _list(prefix: str, *, recursive: bool) -> Plan[Listing]:
    answer = yield ListObjects(prefix, recursive)
    assert isinstance(answer, Listing)
    return answer
