"""Adoption: plain files that someone uploaded become versions (design: origin layout 1). Pure rules.

A folder is adopted when it has no ``.hotstart/`` claim or manifest, its newest object is a minute old and
every shard that an index of weights names is there. Nobody knows the files' sha256; what identifies the
objects at their origin makes their content ids instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from . import documents
from .digests import adopted_id, sha256_id
from .errors import FormatError, InvalidReference
from .listing import ListedObject
from .manifest import TWIN_SUFFIXES, File, OriginObject
from .media_types import media_type
from .references import DEFAULT_ORGANISATION, RESERVED_PREFIX, check_file, check_model, check_version

__all__ = [
    "ADOPTION_AGE_MS",
    "AdoptableFile",
    "Ignored",
    "Layout",
    "Match",
    "adopt_files",
    "fingerprint",
    "is_ours",
    "is_reserved",
    "listing_version",
    "missing_shard",
    "newest",
    "too_young",
    "weights_indices",
    "without_twins",
]

# Long enough that an upload of many files, one after the other, is not taken for complete in between.
ADOPTION_AGE_MS = 60_000
_VERSION_DIGITS = 16
_ORG, _NAME, _VERSION = "{org}", "{name}", "{version}"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key, or a folder (with a slash), that does not count, and why not."""

    key: str
    reason: str


class Match(NamedTuple):
    """What a key means under a layout; version is None where the layout has none."""

    model: str
    version: str | None
    file: str


class AdoptableFile(NamedTuple):
    """A file's path in its version, and the object."""

    path: str
    object: ListedObject


@dataclass(frozen=True, slots=True)
class Layout:
    """Where models, versions and files stand in keys; ``Layout()`` is that of published versions too.

    Attributes:
        template: as given, for messages.
        levels: one an outer segment: ``{org}``, ``{name}``, ``{version}``, or a literal.
    """

    DEFAULT: ClassVar[str] = "{model}/{version}/{file}"

    template: str = DEFAULT
    levels: tuple[str, ...] = (_ORG, _NAME, _VERSION)

    @classmethod
    def parse(cls, template: str) -> Layout:
        """Parse ``{model}/{version}/{file}`` or the like.

        ``{model}`` stands for two segments, ``org/name``; ``{name}`` for one, and the model is
        ``library/name``. ``{version}`` may be left out: then the digest of the listing is the version. Other
        segments stand for themselves.

        Raises:
            FormatError: a part is missing, doubled or out of order.
        """
        *outer, last = template.split("/")
        levels: list[str] = []
        for segment in outer:
            if segment == "{model}":
                levels += [_ORG, _NAME]
            elif segment in (_NAME, _VERSION):
                levels.append(segment)
            else:
                levels.append(_check_literal(template, segment))
        if last != "{file}":
            raise _layout_error(template, "expected {file} as its last segment")
        if levels.count(_NAME) != 1:
            raise _layout_error(template, "expected {model} (two segments) or {name} (one) once")
        if levels.count(_VERSION) > 1 or _VERSION in levels[: levels.index(_NAME)]:
            raise _layout_error(template, "expected {version} once at most, and after the model")
        return cls(template, tuple(levels))

    @property
    def has_version(self) -> bool:
        """Whether versions have names of their own."""
        return _VERSION in self.levels

    @property
    def is_native(self) -> bool:
        """Whether adopted folders lie where published ones do."""
        return self.levels == (_ORG, _NAME, _VERSION)

    @property
    def model_levels(self) -> tuple[str, ...]:
        """The levels down to the model's folder."""
        return self.levels[: self.levels.index(_NAME) + 1]

    def model_prefix(self, model: str) -> str | None:
        """Return the prefix of everything adopted of model; None where no key can mean that model."""
        stop = self.levels.index(_VERSION) if self.has_version else len(self.levels)
        return self._prefix(self.levels[:stop], model, "")

    def version_prefix(self, model: str, version: str) -> str | None:
        """Return the prefix of one version's files (of the model's, where versions have no names)."""
        return self._prefix(self.levels, model, version)

    def _prefix(self, levels: Sequence[str], model: str, version: str) -> str | None:
        organisation, _, name = model.partition("/")
        if _ORG not in levels and organisation != DEFAULT_ORGANISATION:
            return None
        values = {_ORG: organisation, _NAME: name, _VERSION: version}
        return "".join(f"{values.get(level, level)}/" for level in levels)

    def match(self, key: str) -> Match | None:
        """Return what key means, or None if nothing."""
        try:
            return self._match(key)
        except InvalidReference:
            return None

    def fault(self, key: str) -> str:
        """Return why key means nothing."""
        try:
            self._match(key)
        except InvalidReference as error:
            return error.reason
        return "nothing is wrong with it"

    def _match(self, key: str) -> Match:
        segments = key.split("/")
        if len(segments) <= len(self.levels):
            raise InvalidReference(key, f"lies above the files of {self.template}")
        found = {}
        for level, segment in zip(self.levels, segments, strict=False):
            if level in (_ORG, _NAME, _VERSION):
                found[level] = segment
            elif level != segment:
                raise InvalidReference(key, f"does not fit {self.template}")
        model = check_model(f"{found[_ORG]}/{found[_NAME]}" if _ORG in found else found[_NAME])
        version = check_version(found[_VERSION]) if _VERSION in found else None
        return Match(model, version, check_file("/".join(segments[len(self.levels) :])))


def _layout_error(template: str, reason: str) -> FormatError:
    return FormatError("layout", f"{template[:200]!r}: {reason}, as in {Layout.DEFAULT}")


def _check_literal(template: str, segment: str) -> str:
    try:
        check_file(segment)
    except InvalidReference as error:
        raise _layout_error(template, f"{segment[:80]!r}: {error.reason}") from error
    if "{" in segment or "}" in segment:
        raise _layout_error(template, f"{segment[:80]!r} is not a placeholder; {{model}}, {{version}} … are")
    return segment


def is_reserved(key: str) -> bool:
    """Tell whether a key can be no file's: one of ours, or a name that looks like one."""
    return any(segment.startswith(RESERVED_PREFIX) for segment in key.split("/"))


def is_ours(key: str) -> bool:
    """Tell whether a reserved key lies where origin layout 1 has its documents, or is a temporary of ours."""
    segments = key.split("/")
    # org/name/.hotstart/… and org/name/version/.hotstart/…
    return RESERVED_PREFIX in segments[2:4] or any(
        part.startswith(f"{RESERVED_PREFIX}-") for part in segments
    )


def too_young(files: Sequence[AdoptableFile], now_ms: int) -> str | None:
    """Return why files are not yet adopted at now_ms, or None if they are old enough."""
    age = now_ms - newest(files)
    if age >= ADOPTION_AGE_MS:
        return None
    wanted = f"adopted once that is {ADOPTION_AGE_MS // 1000} s"
    if age < 0:
        return f"newest object is dated {-age // 1000} s ahead of the clock here: {wanted}"
    return f"newest object is {age // 1000} s old: {wanted}"


def newest(files: Sequence[AdoptableFile]) -> int:
    """Return when the newest of files was written, in milliseconds since the epoch."""
    return max(file.object.last_modified for file in files)


def without_twins(files: Sequence[AdoptableFile]) -> tuple[list[AdoptableFile], list[AdoptableFile]]:
    """Part files into those that are files, and twins of these: they never count as files of their own.

    Adding twins must change neither a version's order nor the digest of a listing.
    """
    paths = {file.path for file in files}
    plain: list[AdoptableFile] = []
    twins: list[AdoptableFile] = []
    for file in files:
        base = next((file.path.removesuffix(end) for end in TWIN_SUFFIXES if file.path.endswith(end)), "")
        (twins if base.endswith(".safetensors") and base in paths else plain).append(file)
    return plain, twins


def weights_indices(files: Iterable[AdoptableFile]) -> list[AdoptableFile]:
    """Return the files that may name shards."""
    return [file for file in files if file.path.endswith(".index.json")]


def missing_shard(index: AdoptableFile, data: bytes, files: Iterable[AdoptableFile]) -> str | None:
    """Return what is wrong with an index of weights, or None if every shard that it names is there.

    A JSON object without a ``weight_map`` is some other file, and nothing is wrong with it.
    """
    try:
        document = documents.load_json(data, index.path)
        shards = set(document.texts("weight_map").values())
    except FormatError as error:
        return str(error)
    folder = index.path.rpartition("/")[0]
    paths = {file.path for file in files}
    for shard in sorted(shards):
        path = f"{folder}/{shard}" if folder else shard
        if path not in paths:
            return f"{path[:200]}, which {index.path} names, is not there"
    return None


def listing_version(files: Iterable[AdoptableFile]) -> str:
    """Return the version of a prefix that is overwritten in place: a digest of what lies in it."""
    rows = sorted([file.path, file.object.etag, file.object.size] for file in files)
    return sha256_id(documents.dump_json(rows))[:_VERSION_DIGITS]


def fingerprint(files: Iterable[AdoptableFile], others: Iterable[ListedObject]) -> str:
    """Return a digest of all that an adopted version's manifest is made from."""
    objects = [file.object for file in files] + list(others)
    rows = sorted([item.key, item.etag, item.size, item.last_modified] for item in objects)
    return sha256_id(documents.dump_json(rows))


def adopt_files(files: Iterable[AdoptableFile], endpoint: str, bucket: str, prefix: str) -> tuple[File, ...]:
    """Return what stands for files in a manifest, by rising path (arguments as ``adopted_id``'s)."""
    return tuple(
        File(
            path=path,
            size=item.size,
            sha256=None,
            id=adopted_id(endpoint, bucket, prefix + item.key, item.etag, item.size),
            media_type=media_type(path),
            origin=OriginObject(item.key, item.etag),
        )
        for path, item in sorted(files)
    )
