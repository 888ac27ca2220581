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

__all__ = ["InvalidOriginUrl", "open_origin", "settings_from"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}", re.ASCII)
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+/?", re.ASCII | re.IGNORECASE)


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
    raise InvalidOriginUrl(url, "expected s3://bucket/prefix or file:///absolute/path")
