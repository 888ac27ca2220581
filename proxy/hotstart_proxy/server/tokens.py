"""Bearer tokens: the file that lists them and what each may, and comparing in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.wire.errors import HotstartError

from .problems import Unauthorized

__all__ = ["InvalidTokenFile", "Rights", "Tokens"]

_log = logging.getLogger("hotstart_proxy.tokens")
# RFC 6750, 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
# What may stand behind a token.
_PREMIUM = "premium"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a token gives beyond access.

    Attributes:
        premium: its requests may be of tier premium.
    """

    premium: bool = False


class InvalidTokenFile(HotstartError):
    """The file of tokens cannot be used; tokens themselves are never in the message."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"token file {path}: {reason}")


class Tokens:
    """The tokens of one file, read again when the file changes.

    A file that cannot be read for a moment (a mounted secret is being replaced) leaves the last tokens in
    force; one that has become empty lets nobody in. Only digests are kept.
    """

    def __init__(self, path: Path, rights: Sequence[str] = (_PREMIUM,)) -> None:
        """Read the file.

        Args:
            path: of the file.
            rights: the words that may stand behind a token.

        Raises:
            InvalidTokenFile: it cannot be read, has no token, or a line that is none.
        """
        self._path = path
        self._words = tuple(rights)
        self._digests: tuple[tuple[bytes, Rights], ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        self._read()
        if not self._digests:
            raise InvalidTokenFile(path, "it holds no token: write one a line")

    def __repr__(self) -> str:
        return f"Tokens({str(self._path)!r}, {len(self._digests)} tokens)"

    def check(self, authorization: str | None) -> Rights:
        """Admit a request by its ``Authorization`` header; return what its token may.

        Raises:
            Unauthorized: there is no bearer token in it, or none of ours.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(given=False)
        found = self.find(token)
        if found is None:
            raise Unauthorized(given=True)
        return found

    def find(self, token: str) -> Rights | None:
        """Return what a token may, or None if it is none of ours."""
        self._refresh()
        digest = _digest(token)
        # Every token is compared, whichever fits, so that time tells nothing.
        found: Rights | None = None
        for known, rights in self._digests:
            if hmac.compare_digest(known, digest):
                found = rights
        return found

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self._path)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        try:
            self._read()
        except InvalidTokenFile as error:
            # The stamp is kept, so that this is said once and not at every request.
            self._stamp = stamp
            _log.warning("the last tokens stay in force: %s", error)

    def _read(self) -> None:
        try:
            stamp = _stamp(self._path)
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidTokenFile(self._path, f"cannot read it: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidTokenFile(self._path, "it is not text") from error
        digests = []
        for number, line in enumerate(text.splitlines(), 1):
            token, *rights = line.split() or [""]
            if not token or token.startswith("#"):
                continue
            if not _TOKEN.fullmatch(token):
                raise InvalidTokenFile(
                    self._path,
                    f"line {number} is no token: expected A-Z a-z 0-9 . _ ~ + / - and = last",
                )
            if rights and (len(rights) > 1 or rights[0] not in self._words):
                allowed = f"only the word {' or '.join(self._words)}" if self._words else "nothing"
                raise InvalidTokenFile(
                    self._path, f"line {number} has more than a token: {allowed} may follow it"
                )
            digests.append((_digest(token), Rights(premium=_PREMIUM in rights)))
        self._digests, self._stamp = tuple(digests), stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
