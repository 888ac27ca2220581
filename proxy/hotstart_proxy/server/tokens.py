"""Bearer tokens: the file that lists them and what each may, and comparing in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .problems import Unauthorized
from .secret_files import SecretFile

__all__ = ["Rights", "Tokens"]

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


class Tokens(SecretFile):
    """The tokens of one file. Only digests are kept."""

    kind = "token"

    def __init__(self, path: Path, rights: Sequence[str] = (_PREMIUM,)) -> None:
        """Read the file.

        Args:
            path: of the file.
            rights: the words that may stand behind a token.

        Raises:
            InvalidSecretFile: it cannot be read, has no token, or a line that is none.
        """
        self._words = tuple(rights)
        self._digests: tuple[tuple[bytes, Rights], ...] = ()
        super().__init__(path)

    def _count(self) -> int:
        return len(self._digests)

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

    def _take(self, lines: Iterator[tuple[int, list[str]]]) -> None:
        digests = []
        for number, (token, *rights) in lines:
            if not _TOKEN.fullmatch(token):
                raise self._invalid(
                    f"line {number} is no token: expected A-Z a-z 0-9 . _ ~ + / - and = last",
                )
            if rights and (len(rights) > 1 or rights[0] not in self._words):
                allowed = f"only the word {' or '.join(self._words)}" if self._words else "nothing"
                raise self._invalid(f"line {number} has more than a token: {allowed} may follow it")
            digests.append((_digest(token), Rights(premium=_PREMIUM in rights)))
        self._digests = tuple(digests)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
