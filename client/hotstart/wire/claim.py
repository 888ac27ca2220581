"""The claim, ``begin.json``: what a publisher says it will publish, before it does (docs/format.md).

It is put first and create-only. So of two publishers of one version one has claimed it, and whoever comes
later, the same one after a crash included, knows whether it has the same files.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import documents
from .digests import is_content_id
from .documents import Document
from .errors import FormatError
from .references import check_file, check_model, check_version

__all__ = ["Claim", "ClaimedFile"]

FORMAT = 1
_WHAT = "claim"


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """One file of a claim: path, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a version is to be made of: files by rising path, each path once."""

    model: str
    version: str
    files: tuple[ClaimedFile, ...]

    def differences(self, other: Claim) -> tuple[str, ...]:
        """Return what other has that is not as here, a phrase a file, by path; empty if all files agree."""
        here = {file.path: file for file in self.files}
        there = {file.path: file for file in other.files}
        phrases = []
        for path in sorted(here.keys() | there.keys()):
            if path not in there:
                phrases.append(f"{path} is missing")
            elif path not in here:
                phrases.append(f"{path} is new")
            elif here[path] != there[path]:
                sizes = (here[path].size, there[path].size)
                phrases.append(
                    f"{path} has other bytes"
                    if sizes[0] == sizes[1]
                    else f"{path} has {sizes[1]} bytes, not {sizes[0]}"
                )
        return tuple(phrases)

    def dump(self) -> bytes:
        """Serialize; the same claim always gives the same bytes."""
        return documents.dump_json(
            {
                "format": FORMAT,
                "model": self.model,
                "version": self.version,
                "files": [
                    {"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Claim:
        """Parse a claim; members that are not known are ignored.

        Raises:
            FormatError: anything else than a claim of format 1.
        """
        document = documents.load_json(data, _WHAT)
        number = document.integer("format")
        if number != FORMAT:
            raise FormatError(_WHAT, f"format {number}: this hotstart reads format {FORMAT}; upgrade it")
        files = tuple(_parse_file(file) for file in document.members_of("files"))
        if len({file.path for file in files}) != len(files):
            raise FormatError(_WHAT, "a path stands in it twice")
        return cls(
            model=document.check("model", check_model, document.text("model")),
            version=document.check("version", check_version, document.text("version")),
            files=files,
        )


def _parse_file(document: Document) -> ClaimedFile:
    sha256 = document.text("sha256")
    if not is_content_id(sha256):
        raise FormatError(document.what, f"sha256 {sha256[:80]!r}: expected 64 lower-case hex digits")
    return ClaimedFile(
        path=document.check("path", check_file, document.text("path")),
        size=document.integer("size"),
        sha256=sha256,
    )
