"""What the client is told about its sources: ``HOTSTART_…`` variables, or arguments that override them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from hotstart.wire.errors import HotstartError

from .endpoints import Endpoint, InvalidUrl, masked, parse_proxy_url, parse_url

if TYPE_CHECKING:
    from hotstart.wire.adoption import Layout

__all__ = ["Environment", "InvalidEnvironment", "OriginUrl", "parse_origin_url"]

T = TypeVar("T")

_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
# Wider than AWS's rule of today: other servers, and old buckets of AWS's, have more.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}", re.ASCII)

_TIERS = ("premium", "standard", "batch")

# What a listing of the variables says, in the order in which sources are tried.
VARIABLES = {
    "HOTSTART_PROXY": "a proxy: http://host:8470 or unix:/run/hotstart.sock",
    "HOTSTART_FALLBACK": "URL or path of a fallback manifest, made by hotstart presign",
    "HOTSTART_ORIGIN": "the origin, read without a proxy: s3://bucket/prefix or file:///path",
}


class InvalidEnvironment(HotstartError):
    """The client's settings cannot be used.

    Attributes:
        problems: one sentence each; all that was found, not only the first.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True, slots=True)
class OriginUrl:
    """An origin's URL, taken apart.

    Attributes:
        bucket: of S3; empty for a directory.
        prefix: with a trailing slash, or empty; of S3.
        directory: absolute path; empty for S3.
    """

    url: str
    bucket: str = ""
    prefix: str = ""
    directory: str = ""


def parse_origin_url(url: str) -> OriginUrl:
    """Read ``s3://bucket/prefix`` or ``file:///absolute/path``.

    Raises:
        InvalidUrl: anything else; another proxy's URL is told where it belongs.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("http", "https") or url.startswith("unix:"):
        raise InvalidUrl(url, "that is a proxy's URL: set HOTSTART_PROXY (proxy=…) to it")
    if not separator or scheme not in ("s3", "file"):
        raise InvalidUrl(url, "expected s3://bucket/prefix or file:///absolute/path")
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"), errors="surrogateescape")
        if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise InvalidUrl(url, "expected an absolute path without .., as in file:///srv/models")
        # Written as the proxy writes it: ids of adopted files are made from it.
        parts = [part for part in path.split("/") if part not in ("", ".")]
        return OriginUrl(url, directory="/" + "/".join(parts))
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidUrl(url, "expected a bucket's name after s3://, as in s3://bucket/prefix")
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/") if prefix) or "?" in prefix:
        raise InvalidUrl(url, "expected a plain prefix without empty segments, . and ..")
    return OriginUrl(url, bucket=bucket, prefix=f"{prefix}/" if prefix else "")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the client may look. Every field was checked; None means not configured.

    Attributes:
        proxy: where the proxy listens.
        token: sent to the proxy alone, as ``Authorization: Bearer``; masked in the repr.
        shared_dir: a read-only mount of the proxy's store.
        origin: read by the client itself.
        fallback: URL or path of a fallback manifest; its query is masked in the repr.
        tier: which latency tier to ask the proxy for; None for its default.
        layout: where files lie at the origin that were uploaded by other means; None means as published ones.
        variables: the ``AWS_…`` variables and ``HOME``, for the S3 origin; not in the repr.
    """

    proxy: Endpoint | None = None
    token: str | None = field(default=None, repr=False)
    shared_dir: str | None = None
    origin: OriginUrl | None = None
    fallback: str | None = field(default=None, repr=False)
    tier: str | None = None
    layout: Layout | None = None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        *,
        proxy: str | None = None,
        token: str | None = None,
        shared_dir: str | None = None,
        origin: str | None = None,
        fallback: str | None = None,
        tier: str | None = None,
    ) -> Environment:
        """Read the variables; an argument that is not None stands for its variable, an empty one clears it.

        Raises:
            InvalidEnvironment: with every problem at once.
        """
        reader = _Reader(environ)
        environment = cls(
            proxy=reader.read("HOTSTART_PROXY", proxy, parse_proxy_url),
            token=reader.read("HOTSTART_TOKEN", token, _check_token),
            shared_dir=reader.read("HOTSTART_SHARED_DIR", shared_dir, _check_directory),
            origin=reader.read("HOTSTART_ORIGIN", origin, parse_origin_url),
            fallback=reader.read("HOTSTART_FALLBACK", fallback, _check_fallback),
            tier=reader.read("HOTSTART_TIER", tier, _check_tier),
            variables={
                name: value for name, value in environ.items() if name.startswith("AWS_") or name == "HOME"
            },
        )
        if reader.problems:
            raise InvalidEnvironment(reader.problems)
        return environment

    @property
    def fallback_name(self) -> str:
        """The fallback manifest's URL or path, without a query: for errors."""
        return masked(self.fallback or "")

    def check_not_empty(self) -> None:
        """Make sure that there is something to ask.

        Raises:
            InvalidEnvironment: neither proxy, fallback nor origin is configured; lists the variables.
        """
        if self.proxy is None and self.fallback is None and self.origin is None:
            choices = "; ".join(f"{name} ({meaning})" for name, meaning in VARIABLES.items())
            raise InvalidEnvironment([f"no source of models is configured: set one or more of {choices}"])


class _Reader:
    """Reads variables one by one and gathers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read(self, name: str, argument: str | None, parse: Callable[[str], T]) -> T | None:
        text = self._environ.get(name, "") if argument is None else argument
        if not text:
            return None
        try:
            return parse(text)
        except InvalidUrl as error:
            self.problems.append(f"{name}: {error}")
            return None


def _check_token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        # The text itself stays out of the message: it is a secret.
        raise InvalidUrl("(token)", "expected visible ASCII characters without spaces")
    return text


def _check_directory(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise InvalidUrl(text, "expected the absolute path of a directory")
    return text


def _check_tier(text: str) -> str:
    if text not in _TIERS:
        raise InvalidUrl(text, f"expected {', '.join(_TIERS)}")
    return text


def _check_fallback(text: str) -> str:
    if "://" in text:
        parse_url(text)
    elif "\0" in text:
        raise InvalidUrl(text, "expected a path or an http(s) URL")
    return text
