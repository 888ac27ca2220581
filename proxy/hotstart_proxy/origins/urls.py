"""From an origin's URL to the origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from hotstart.wire.errors import HotstartError
from hotstart_proxy.core.observer import Observer

from .base import Origin
from .directory import DirectoryOrigin
from .s3 import S3Origin, S3Settings

__all__ = ["InvalidOriginUrl", "check_upstream", "is_upstream", "open_origin", "settings_from"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}", re.ASCII)
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+/?", re.ASCII | re.IGNORECASE)
_UPSTREAM_SCHEMES = ("http://", "https://", "unix:")
# sun_path with its end has 108.
_MAX_SOCKET_PATH_BYTES = 107


class InvalidOriginUrl(HotstartError):
    """A URL names no origin.

    Attributes:
        url: what was given.
        reason: what is wrong with it, and what was expected.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"origin {url[:200]!r}: {reason}")


def settings_from(environ: Mapping[str, str], settings: S3Settings | None = None) -> S3Settings:
    """Return settings with what is not given in them taken from AWS's ordinary variables.

    ``AWS_ENDPOINT_URL_S3``, or else ``AWS_ENDPOINT_URL``, is the endpoint; ``AWS_REGION``, or else
    ``AWS_DEFAULT_REGION``, the region.

    Raises:
        InvalidOriginUrl: the endpoint is no http or https URL without path.
    """
    settings = settings or S3Settings()
    endpoint = settings.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = settings.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise InvalidOriginUrl(endpoint, "an S3 endpoint is http://HOST:PORT or https://HOST, without a path")
    return replace(settings, endpoint=endpoint.rstrip("/") if endpoint else None, region=region or None)


def is_upstream(url: str) -> bool:
    """Tell whether a URL names another proxy: ``http://``, ``https://`` or ``unix:``."""
    return url.startswith(_UPSTREAM_SCHEMES)


def check_upstream(url: str) -> str:
    """Check the URL of another proxy.

    Raises:
        InvalidOriginUrl: it has a path or a user, or no host; the socket's path is not absolute or too long.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.startswith("/") or path.startswith("//") or "\0" in path:
            raise InvalidOriginUrl(url, "expected an absolute path: unix:/run/hotstart.sock")
        if len(path.encode("utf-8", "surrogateescape")) > _MAX_SOCKET_PATH_BYTES:
            reason = f"a socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes: use a shorter one"
            raise InvalidOriginUrl(url, reason)
    elif not _ENDPOINT.fullmatch(url):
        raise InvalidOriginUrl(url, "expected a proxy's address without a path: http://host:8470")
    return url


def open_origin(
    url: str,
    environ: Mapping[str, str],
    settings: S3Settings | None = None,
    observer: Observer | None = None,
) -> Origin:
    """Return the origin that a URL names; entering it connects.

    Args:
        url: ``s3://bucket/prefix`` or ``file:///absolute/path`` (percent-encoded).
        environ: where AWS's variables are looked up, ``os.environ`` as a rule.
        settings: what goes before the environment.
        observer: told of requests that are sent again.

    Raises:
        InvalidOriginUrl: it names none.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise InvalidOriginUrl(url, f"{bucket[:80]!r} is no bucket name: expected s3://bucket/prefix")
        prefix = prefix.strip("/")
        if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
            raise InvalidOriginUrl(url, "its prefix has a segment that is empty, . or ..")
        return S3Origin(bucket, f"{prefix}/" if prefix else "", settings_from(environ, settings), observer)
    if separator and scheme == "file":
        path = Path(unquote(rest))
        if not path.is_absolute() or ".." in path.parts or "\0" in str(path):
            raise InvalidOriginUrl(url, "expected an absolute path without .., as in file:///srv/models")
        return DirectoryOrigin(path)
    if is_upstream(url):
        reason = "it is another proxy's address: give the origin itself, s3://bucket/prefix or file:///path"
        raise InvalidOriginUrl(url, reason)
    raise InvalidOriginUrl(url, "expected s3://bucket/prefix or file:///absolute/path")
