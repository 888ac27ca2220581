"""What ``GET /v1/open/…`` answers: one version, its manifest, and where else its bytes can be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import documents
from .errors import FormatError
from .manifest import Manifest

__all__ = ["Fallback", "Opening"]

_WHAT = "answer to open"


@dataclass(frozen=True, slots=True)
class Fallback:
    """Pre-signed URLs of a version's representations. A secret: never logged, never cached.

    Attributes:
        urls: by representation path (twins with their suffix).
        expires_in_seconds: counted from receipt, so that no clock is trusted.
    """

    urls: Mapping[str, str]
    expires_in_seconds: int

    def __repr__(self) -> str:
        return f"Fallback({len(self.urls)} urls, expires_in_seconds={self.expires_in_seconds})"


@dataclass(frozen=True, slots=True)
class Opening:
    """A reference resolved once.

    Attributes:
        manifest: of the one version that everything after speaks of.
        manifest_bytes: exactly as at the origin.
        fallback: None where the origin cannot pre-sign.
        cached: bytes that the proxy holds, by representation path; absent is 0.
    """

    manifest: Manifest
    manifest_bytes: bytes
    fallback: Fallback | None = None
    cached: Mapping[str, int] = field(default_factory=dict)

    def dump(self) -> bytes:
        """Serialize, with the manifest's bytes as they are."""
        head = documents.dump_json({"model": self.manifest.model, "version": self.manifest.version})
        tail = documents.dump_json(
            {
                "fallback": None
                if self.fallback is None
                else {
                    "urls": dict(self.fallback.urls),
                    "expires_in_seconds": self.fallback.expires_in_seconds,
                },
                "cached": dict(self.cached),
            }
        )
        return head[:-1] + b',"manifest":' + self.manifest_bytes + b"," + tail[1:]

    @classmethod
    def parse(cls, data: bytes) -> Opening:
        """Parse an answer; members that are not known are ignored.

        Raises:
            FormatError: anything else.
        """
        document = documents.load_json(data, _WHAT)
        manifest = Manifest.from_document(document.member("manifest"))
        if (manifest.model, manifest.version) != (document.text("model"), document.text("version")):
            raise FormatError(_WHAT, "its model and version are not the manifest's")
        fallback = document.optional_member("fallback")
        cached = document.optional_member("cached")
        return cls(
            manifest=manifest,
            manifest_bytes=documents.raw_member(data, "manifest"),
            fallback=None
            if fallback is None
            else Fallback(fallback.texts("urls"), fallback.integer("expires_in_seconds")),
            cached={} if cached is None else {key: cached.integer(key) for key in cached.members},
        )
