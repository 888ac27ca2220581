"""A model's index: which versions there are, in which order, and what the aliases mean.

Pure: every change returns a new index with a higher serial; whoever stores it does so by compare-and-swap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import documents
from .digests import is_content_id
from .documents import Document
from .errors import FormatError, HotstartError
from .references import DEFAULT_ALIAS, LATEST, MAIN, check_alias, check_model, check_version
from .timestamps import format_timestamp, parse_timestamp

__all__ = ["AliasClash", "Index", "IndexEntry", "natural_key", "version_order"]

FORMAT = 1
_WHAT = "index"
# A reader of the index alone can check this many manifests without asking for them.
_WITH_MANIFEST_ID = 5
_MEMBERS = frozenset({"format", "model", "serial", "versions", "aliases"})
_ENTRY_MEMBERS = frozenset({"version", "published_at", "manifest_id"})
_DIGITS = re.compile(r"(\d+)", re.ASCII)


class AliasClash(HotstartError):
    """A name would be both an alias and a version of one model, or an alias of nothing."""

    def __init__(self, model: str, name: str, reason: str) -> None:
        self.model = model
        self.name = name
        super().__init__(f"{model}: {name!r} {reason}")


def natural_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which ``v10`` comes after ``v9``: runs of digits count as numbers."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(version) if part
    )


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the index.

    Attributes:
        version: its id.
        published_at: milliseconds since the epoch, rising from publish to publish.
        manifest_id: sha256 of the manifest's bytes for the newest five; None for older and adopted ones.
        others: members that a newer hotstart wrote, where they were asked for; they play no part here.
    """

    version: str
    published_at: int
    manifest_id: str | None = None
    others: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)


def version_order(entry: IndexEntry) -> tuple[int, tuple[tuple[int, int, str], ...], str]:
    """Return the key that orders versions: time of publishing, then natural order of the id."""
    return (entry.published_at, natural_key(entry.version), entry.version)


@dataclass(frozen=True, slots=True)
class Index:
    """Versions oldest first, and aliases; others as of an entry."""

    model: str
    serial: int = 0
    versions: tuple[IndexEntry, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    def entry(self, version: str) -> IndexEntry | None:
        """Return the entry of a version, or None."""
        return next((entry for entry in self.versions if entry.version == version), None)

    def latest(self) -> str | None:
        """Return the newest published version, or None where there is none."""
        return self.versions[-1].version if self.versions else None

    def resolve(self, selector: str | None) -> str | None:
        """Return the version that a selector means now, or None where it means nothing.

        None and ``main`` mean ``prod`` if there is such an alias, else ``latest``.
        """
        if selector is None or selector == MAIN:
            selector = DEFAULT_ALIAS if DEFAULT_ALIAS in self.aliases else LATEST
        if selector == LATEST:
            return self.latest()
        if self.entry(selector) is not None:
            return selector
        target = self.aliases.get(selector)
        return target if target is not None and self.entry(target) is not None else None

    def next_published_at(self, now: int) -> int:
        """Return the time a publish at now gets: never before or at the newest version's."""
        return max(now, self.versions[-1].published_at + 1) if self.versions else now

    def with_version(self, entry: IndexEntry) -> Index:
        """Return an index with this version as well; one that is there already is not changed.

        Raises:
            AliasClash: an alias has the version's name.
            InvalidReference: it is no version id, and would make the index unreadable.
        """
        check_version(entry.version)
        if entry.version in self.aliases:
            raise AliasClash(self.model, entry.version, "is an alias already: choose another version id")
        if self.entry(entry.version) is not None:
            return self
        entry = replace(entry, published_at=self.next_published_at(entry.published_at))
        return self._changed(versions=(*self.versions, entry))

    def with_alias(self, alias: str, version: str) -> Index:
        """Return an index in which alias means version.

        Raises:
            AliasClash: a version has the alias's name, or version is not in the index.
        """
        check_alias(alias)
        if self.entry(alias) is not None:
            raise AliasClash(self.model, alias, "is a version already: choose another alias")
        if self.entry(version) is None:
            raise AliasClash(self.model, version, "is no version of it: publish it first")
        if self.aliases.get(alias) == version:
            return self
        return self._changed(aliases={**self.aliases, alias: version})

    def without_alias(self, alias: str) -> Index:
        """Return an index without this alias."""
        if alias not in self.aliases:
            return self
        return self._changed(aliases={name: target for name, target in self.aliases.items() if name != alias})

    def without_version(self, version: str) -> Index:
        """Return an index without this version.

        Raises:
            AliasClash: an alias still means it.
        """
        holders = sorted(alias for alias, target in self.aliases.items() if target == version)
        if holders:
            raise AliasClash(
                self.model, version, f"is what {', '.join(holders)} means: move that alias first"
            )
        if self.entry(version) is None:
            return self
        return self._changed(versions=tuple(entry for entry in self.versions if entry.version != version))

    def _changed(
        self, versions: tuple[IndexEntry, ...] | None = None, aliases: Mapping[str, str] | None = None
    ) -> Index:
        return Index(
            self.model,
            self.serial + 1,
            tuple(sorted(self.versions if versions is None else versions, key=version_order)),
            self.aliases if aliases is None else aliases,
            self.others,
        )

    def dump(self, *, every_manifest_id: bool = False) -> bytes:
        """Serialize; the same index always gives the same bytes.

        Args:
            every_manifest_id: give those of older versions too, as far as they are known: of adopted ones,
                which may change, for instance. An origin's index has the newest five alone.
        """
        newest = self.versions if every_manifest_id else self.versions[-_WITH_MANIFEST_ID:]
        return documents.dump_json(
            {
                "format": FORMAT,
                "model": self.model,
                "serial": self.serial,
                "versions": [
                    {
                        "version": entry.version,
                        "published_at": format_timestamp(entry.published_at),
                        **(
                            {"manifest_id": entry.manifest_id}
                            if entry in newest and entry.manifest_id
                            else {}
                        ),
                        **entry.others,
                    }
                    for entry in self.versions
                ],
                "aliases": dict(sorted(self.aliases.items())),
                **self.others,
            }
        )

    @classmethod
    def parse(cls, data: bytes, *, keep_others: bool = False) -> Index:
        """Parse an index; members that are not known are ignored.

        Args:
            data: the document.
            keep_others: keep what is ignored, so that whoever writes the index again takes nothing away.

        Raises:
            FormatError: anything else than an index of format 1.
        """
        document = documents.load_json(data, _WHAT)
        number = document.integer("format")
        if number != FORMAT:
            raise FormatError(_WHAT, f"format {number}: this hotstart reads format {FORMAT}; upgrade it")
        entries = []
        for item in document.members_of("versions"):
            manifest_id = item.optional_text("manifest_id")
            if manifest_id is not None and not is_content_id(manifest_id):
                raise FormatError(item.what, "manifest_id: expected 64 lower-case hex digits")
            version = item.check("version", check_version, item.text("version"))
            published_at = parse_timestamp(item.text("published_at"), item.what)
            others = _others(item, _ENTRY_MEMBERS) if keep_others else {}
            entries.append(IndexEntry(version, published_at, manifest_id, others))
        aliases = document.texts("aliases")
        for alias, target in aliases.items():
            document.check("aliases", check_alias, alias)
            document.check("aliases", check_version, target)
        names = [entry.version for entry in entries]
        if len(set(names)) != len(names) or set(names) & set(aliases):
            raise FormatError(_WHAT, "a name stands in it twice")
        return cls(
            model=document.check("model", check_model, document.text("model")),
            serial=document.integer("serial"),
            versions=tuple(sorted(entries, key=version_order)),
            aliases=aliases,
            others=_others(document, _MEMBERS) if keep_others else {},
        )


def _others(document: Document, known: frozenset[str]) -> dict[str, object]:
    return {key: value for key, value in document.members.items() if key not in known}
