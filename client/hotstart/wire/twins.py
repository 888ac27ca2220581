"""Twins that were added to an adopted version: the document ``.hotstart/twins-<suffix>.json``, format 1.

A twin belongs to the very bytes it was made from. So each entry names the content id of its file, and counts
only while the file still has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import documents
from .digests import is_content_id
from .errors import FormatError
from .manifest import TWIN_SUFFIXES, File, Twin, dump_twin, parse_twin
from .references import check_file, check_model, check_version

__all__ = ["AddedTwin", "AddedTwins"]

FORMAT = 1
_WHAT = "twins document"


@dataclass(frozen=True, slots=True)
class AddedTwin:
    """One twin: of the file at path while that has the content id file_id."""

    path: str
    file_id: str
    twin: Twin


@dataclass(frozen=True, slots=True)
class AddedTwins:
    """All twins of one suffix that were added to a version.

    Attributes:
        model: two segments.
        version: the adopted version.
        suffix: one of ``TWIN_SUFFIXES``; every twin has it.
        twins: by rising path, each path once.
    """

    model: str
    version: str
    suffix: str
    twins: tuple[AddedTwin, ...]

    def merge(self, files: Iterable[File]) -> tuple[File, ...]:
        """Return files with these twins where they belong to the bytes that are there now."""
        added = {(twin.path, twin.file_id): twin.twin for twin in self.twins}
        merged = []
        for file in files:
            twin = added.get((file.path, file.id))
            if twin is not None:
                others = (other for other in file.twins if other.suffix != self.suffix)
                file = replace(file, twins=tuple(sorted((*others, twin), key=lambda item: item.suffix)))
            merged.append(file)
        return tuple(merged)

    def dump(self) -> bytes:
        """Serialize; the same twins always give the same bytes."""
        return documents.dump_json(
            {
                "format": FORMAT,
                "model": self.model,
                "version": self.version,
                "suffix": self.suffix,
                "files": [
                    {"path": item.path, "id": item.file_id, "twin": dump_twin(item.twin)}
                    for item in self.twins
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> AddedTwins:
        """Parse such a document; members that are not known are ignored.

        Raises:
            FormatError: anything else than a twins document of format 1.
        """
        document = documents.load_json(data, _WHAT)
        number = document.integer("format")
        if number != FORMAT:
            raise FormatError(_WHAT, f"format {number}: this hotstart reads format {FORMAT}; upgrade it")
        suffix = document.text("suffix")
        if suffix not in TWIN_SUFFIXES:
            raise FormatError(_WHAT, f"suffix {suffix[:80]!r}: expected one of {', '.join(TWIN_SUFFIXES)}")
        twins = tuple(_parse_added(item, suffix) for item in document.members_of("files"))
        if len({item.path for item in twins}) != len(twins):
            raise FormatError(_WHAT, "a path stands in it twice")
        return cls(
            model=document.check("model", check_model, document.text("model")),
            version=document.check("version", check_version, document.text("version")),
            suffix=suffix,
            twins=twins,
        )


def _parse_added(document: documents.Document, suffix: str) -> AddedTwin:
    file_id = document.text("id")
    if not is_content_id(file_id):
        raise FormatError(document.what, f"id {file_id[:80]!r}: expected 64 lower-case hex digits")
    twin = parse_twin(document.member("twin"))
    if twin.suffix != suffix:
        raise FormatError(document.what, f"a twin {twin.suffix[:80]!r} among those of {suffix}")
    return AddedTwin(document.check("path", check_file, document.text("path")), file_id, twin)
