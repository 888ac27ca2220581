"""The fallback manifest: a version with pre-signed URLs, in a file that needs neither proxy nor credentials.

``hotstart presign`` writes it, ``HOTSTART_FALLBACK`` names it. Whoever has it can read the version until it
expires: it is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import documents
from .errors import FormatError
from .manifest import Manifest
from .references import LATEST, MAIN, Reference, check_model, check_version
from .timestamps import format_timestamp, parse_timestamp

__all__ = ["FallbackManifest"]

FORMAT = 1
_WHAT = "fallback manifest"


@dataclass(frozen=True, slots=True)
class FallbackManifest:
    """One version of a model, as ``hotstart presign`` found it.

    Attributes:
        model: two segments.
        version: the one version that the URLs read.
        manifest: of that version.
        manifest_bytes: exactly as at the origin.
        urls: pre-signed, by representation path (twins with their suffix).
        signed_at: milliseconds since the epoch, by the clock of whoever signed.
        session_ends_at: when the credentials that signed end, and every URL with them; None where they last
            longer than any URL can, or do not say.
        expires_at: when the first URL stops working; never after session_ends_at.
        names: what else meant this version when it was signed: aliases, ``latest``, and ``main`` for a
            reference that gives no version.
    """

    model: str
    version: str
    manifest: Manifest
    manifest_bytes: bytes
    urls: Mapping[str, str]
    signed_at: int
    session_ends_at: int | None
    expires_at: int
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"FallbackManifest({self.model}@{self.version}, {len(self.urls)} urls, "
            f"expires_at={format_timestamp(self.expires_at)})"
        )

    def answers(self, reference: Reference) -> bool:
        """Tell whether reference named this version when it was signed."""
        selector = MAIN if reference.selector is None else reference.selector
        return reference.model == self.model and selector in (self.version, *self.names)

    def dump(self) -> bytes:
        """Serialize, with the manifest's bytes as they are."""
        head = documents.dump_json(
            {
                "format": FORMAT,
                "model": self.model,
                "version": self.version,
                "names": list(self.names),
                "signed_at": format_timestamp(self.signed_at),
                "session_ends_at": None
                if self.session_ends_at is None
                else format_timestamp(self.session_ends_at),
                "expires_at": format_timestamp(self.expires_at),
            }
        )
        tail = documents.dump_json({"urls": dict(self.urls)})
        return head[:-1] + b',"manifest":' + self.manifest_bytes + b"," + tail[1:]

    @classmethod
    def parse(cls, data: bytes) -> FallbackManifest:
        """Parse a fallback manifest; members that are not known are ignored.

        Raises:
            FormatError: anything else than a fallback manifest of format 1. URLs are never quoted.
        """
        document = documents.load_json(data, _WHAT)
        number = document.integer("format")
        if number != FORMAT:
            raise FormatError(_WHAT, f"format {number}: this hotstart reads format {FORMAT}; upgrade it")
        manifest = Manifest.from_document(document.member("manifest"))
        model = document.check("model", check_model, document.text("model"))
        version = document.check("version", check_version, document.text("version"))
        if (model, version) != (manifest.model, manifest.version):
            raise FormatError(_WHAT, f"it is of {model}@{version}, its manifest of another")
        ends = document.optional_text("session_ends_at")
        return cls(
            model=model,
            version=version,
            manifest=manifest,
            manifest_bytes=documents.raw_member(data, "manifest"),
            urls=_check_urls(document.texts("urls"), manifest),
            signed_at=parse_timestamp(document.text("signed_at"), _WHAT),
            session_ends_at=None if ends is None else parse_timestamp(ends, _WHAT),
            expires_at=parse_timestamp(document.text("expires_at"), _WHAT),
            names=_parse_names(document),
        )


def _check_urls(urls: Mapping[str, str], manifest: Manifest) -> Mapping[str, str]:
    for path, url in urls.items():
        if manifest.representation(path) is None:
            raise FormatError(_WHAT, f"urls: {path[:120]!r} is no file of the version")
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise FormatError(_WHAT, f"urls: that of {path!r} is not a URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FormatError(_WHAT, f"urls: that of {path!r} is not an http or https URL")
    return urls


def _parse_names(document: documents.Document) -> tuple[str, ...]:
    names = document.members.get("names", [])
    if not isinstance(names, list):
        raise FormatError(_WHAT, f"names: expected a list, found {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise FormatError(_WHAT, "names: expected strings")
        if name not in (LATEST, MAIN):
            # An alias follows a version's rules.
            document.check("names", check_version, name)
    return tuple(names)
