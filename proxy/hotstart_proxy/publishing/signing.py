"""Pre-signing a whole version: the fallback manifest for readers who may find no proxy."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import InvalidReference
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.index import Index
from hotstart.wire.manifest import Manifest
from hotstart.wire.references import LATEST, MAIN, Reference
from hotstart_proxy.origins.base import Origin
from hotstart_proxy.origins.catalog import catalog_of, perform

from .errors import CannotPresign, UnknownVersion

__all__ = ["MAX_EXPIRY_SECONDS", "MIN_EXPIRY_SECONDS", "Signed", "sign_version"]

MIN_EXPIRY_SECONDS = 60
# SigV4's own limit.
MAX_EXPIRY_SECONDS = 7 * 24 * 3600
# Temporary credentials given by environment variables do not say when they end, but sign with a token.
_SESSION_TOKEN = "X-Amz-Security-Token"  # noqa: S105 - the name of a query parameter


@dataclass(frozen=True, slots=True)
class Signed:
    """A fallback manifest, and how long it holds.

    Attributes:
        expires_in_seconds: until the first URL stops working.
        session_ends_in_seconds: until the credentials that signed end; None where that is later than any URL,
            or not known.
        is_session: whether these were temporary credentials, which end at some time.
    """

    manifest: FallbackManifest
    expires_in_seconds: int
    session_ends_in_seconds: int | None
    is_session: bool


async def sign_version(
    origin: Origin, reference: Reference, expires_in_seconds: int, layout: Layout, now_ms: int
) -> Signed:
    """Pre-sign every file and twin of the version that reference means now.

    Args:
        origin: entered.
        reference: a model, or a version or alias of it.
        expires_in_seconds: ``MIN_EXPIRY_SECONDS`` to ``MAX_EXPIRY_SECONDS``; it gets less where the session
            ends first.
        layout: where adopted versions lie.
        now_ms: milliseconds since the epoch.

    Raises:
        CannotPresign: the origin has no such URLs.
        UnknownVersion: there is no such model, version or alias.
        InvalidReference: reference names a file.
        OriginError
    """
    if reference.file is not None:
        raise InvalidReference(str(reference), "name a version, not a file of it: all its files are signed")
    if not origin.can_presign:
        raise CannotPresign(origin.url)
    catalog = catalog_of(origin, layout)
    known = await perform(origin, catalog.index(reference.model, now_ms))
    if known is None:
        raise UnknownVersion(origin.url, f"model {reference.model}")
    version = known.index.resolve(reference.selector)
    data = (
        None if version is None else await perform(origin, catalog.manifest(reference.model, version, now_ms))
    )
    if version is None or data is None:
        raise UnknownVersion(origin.url, str(reference), _names(known.index))
    manifest = Manifest.parse(data)
    urls: dict[str, str] = {}
    lifetimes: list[int] = []
    session_ends_in: int | None = None
    is_session = False
    for file in manifest.files:
        for representation in file.representations():
            signed = await origin.presign(representation.origin, expires_in_seconds)
            # Signing costs no request: the longest URL there can be shows when the session ends.
            longest = await origin.presign(representation.origin, MAX_EXPIRY_SECONDS)
            if signed is None or longest is None:
                raise CannotPresign(origin.url)
            urls[representation.path] = signed.url
            lifetimes.append(signed.expires_in_seconds)
            is_session = is_session or _SESSION_TOKEN in parse_qs(urlsplit(signed.url).query)
            if longest.expires_in_seconds < MAX_EXPIRY_SECONDS:
                session_ends_in = min(session_ends_in or MAX_EXPIRY_SECONDS, longest.expires_in_seconds)
    expires_in = min(lifetimes, default=expires_in_seconds)
    fallback = FallbackManifest(
        model=reference.model,
        version=version,
        manifest=manifest,
        manifest_bytes=data,
        urls=urls,
        signed_at=now_ms,
        session_ends_at=None if session_ends_in is None else now_ms + 1000 * session_ends_in,
        expires_at=now_ms + 1000 * expires_in,
        names=_meanings(known.index, version),
    )
    return Signed(fallback, expires_in, session_ends_in, is_session or session_ends_in is not None)


def _names(index: Index) -> list[str]:
    return [*sorted(index.aliases), *(entry.version for entry in reversed(index.versions))]


def _meanings(index: Index, version: str) -> tuple[str, ...]:
    aliases = sorted(alias for alias in index.aliases if index.resolve(alias) == version)
    return (*aliases, *(name for name in (LATEST, MAIN) if index.resolve(name) == version))
