"""The fallback manifest that ``HOTSTART_FALLBACK`` names, and pre-signed sources with advice on their age."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hotstart.wire.errors import FormatError
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.opening import Fallback
from hotstart.wire.references import Reference
from hotstart.wire.timestamps import format_timestamp

from .answers import refused
from .base import SourceError
from .endpoints import masked, parse_url
from .http import Connection
from .presigned import PresignedSource
from .proxy import ProxyClient

__all__ = ["fallback_name", "fallback_source", "proxy_signed_source", "read_fallback"]

# As much as its parser takes.
_MAX_BYTES = 256 * 1024 * 1024
Urls = Mapping[str, str]


def fallback_name(location: str) -> str:
    """Return the source's name, without the query of a URL."""
    return f"fallback manifest {masked(location)}"


def read_fallback(location: str) -> FallbackManifest:
    """Read the fallback manifest at a path or an http(s) URL.

    Raises:
        SourceError: it cannot be read, or is no fallback manifest.
    """
    doing = "reading it"
    name = fallback_name(location)
    data = _fetch(location, name, doing) if "://" in location else _read_file(location, name, doing)
    try:
        return FallbackManifest.parse(data)
    except FormatError as error:
        raise SourceError(name, doing, str(error), transient=False) from error


def _read_file(location: str, name: str, doing: str) -> bytes:
    try:
        with Path(location).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(name, doing, error.strerror or str(error), transient=False) from error
    if len(data) > _MAX_BYTES:
        raise SourceError(name, doing, f"it has more than {_MAX_BYTES} bytes", transient=False)
    return data


def _fetch(location: str, name: str, doing: str) -> bytes:
    endpoint, target = parse_url(location)
    connection = Connection(endpoint, name)
    try:
        response = connection.request("GET", target, {}, doing=doing)
        if response.status != 200:
            raise refused(response)
        with response:
            return response.read(_MAX_BYTES)
    finally:
        connection.close()


def fallback_source(location: str, manifest: FallbackManifest, proxy: ProxyClient | None) -> PresignedSource:
    """Return the source of a fallback manifest's URLs; a proxy may replace refused ones by fresh ones."""
    reference = Reference(manifest.model, manifest.version)

    def advice() -> str:
        return _age(manifest, reference, time.time())

    return PresignedSource(
        fallback_name(location), manifest.urls, refresh=_refresh(proxy, reference), advice=advice
    )


def _age(manifest: FallbackManifest, reference: Reference, now: float) -> str:
    hours = (now - manifest.signed_at / 1000) / 3600
    if manifest.session_ends_at is not None and manifest.session_ends_at <= manifest.expires_at:
        end = f"the session that signed it ends {format_timestamp(manifest.session_ends_at)}"
    else:
        end = f"its URLs expire {format_timestamp(manifest.expires_at)}"
    signed = format_timestamp(manifest.signed_at)
    return (
        f"the fallback manifest is {hours:.1f} hours old (signed {signed}; {end}): "
        f"make a new one with hotstart presign {reference}"
    )


def proxy_signed_source(proxy: ProxyClient, fallback: Fallback, reference: Reference) -> PresignedSource:
    """Return the source of the URLs that came with an opening.

    Args:
        proxy: that answered, and is asked again once where they are refused.
        fallback: the URLs, received just now.
        reference: with the version.
    """
    received = time.monotonic()

    def advice() -> str:
        age = time.monotonic() - received
        return f"the proxy signed it {age:.0f} s ago for {fallback.expires_in_seconds} s"

    return PresignedSource(
        f"pre-signed URLs of {proxy.name}",
        fallback.urls,
        refresh=_refresh(proxy, reference),
        advice=advice,
    )


def _refresh(proxy: ProxyClient | None, reference: Reference) -> Callable[[], Urls] | None:
    if proxy is None:
        return None

    def refresh() -> Urls:
        fallback = proxy.open(reference).fallback
        if fallback is None:
            raise SourceError(proxy.name, f"opening {reference}", "it gave no URLs", transient=False)
        return fallback.urls

    return refresh
