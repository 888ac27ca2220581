"""The bearer token that an upstream wants: the first line of a file, read again when it changes."""

from __future__ import annotations

import re
from pathlib import Path

from .base import OriginDenied

__all__ = ["TokenFile"]

# RFC 6750, 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


class TokenFile:
    """One token, as a mounted secret that may be replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def authorization(self, origin: str, doing: str) -> str:
        """Return the value of ``Authorization``.

        Raises:
            OriginDenied: the file cannot be read, or its first line is no token, and never was one.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                first, *_ = self._path.read_text(encoding="utf-8").splitlines() or [""]
                if _TOKEN.fullmatch(first.strip()):
                    self._token, self._stamp = first.strip(), stamp
                elif not self._token:
                    reason = f"the first line of {self._path} is no token: expected A-Z a-z 0-9 . _ ~ + / -"
                    raise OriginDenied(origin, doing, reason)
        except (OSError, UnicodeDecodeError) as error:
            # While a secret is being replaced, the last one stays in use.
            if not self._token:
                reason = f"cannot read the token file {self._path}: {error}"
                raise OriginDenied(origin, doing, reason) from error
        return f"Bearer {self._token}"
