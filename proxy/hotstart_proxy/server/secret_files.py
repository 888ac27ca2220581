"""Files of secrets, one a line: read at the start, and again when they change."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from hotstart.wire.errors import HotstartError

__all__ = ["InvalidSecretFile", "SecretFile"]

_log = logging.getLogger("hotstart_proxy.secrets")


class InvalidSecretFile(HotstartError):
    """The file cannot be used; secrets are never in the message."""

    def __init__(self, kind: str, path: Path, reason: str) -> None:
        self.kind = kind
        self.path = path
        self.reason = reason
        super().__init__(f"{kind} file {path}: {reason}")


class SecretFile(ABC):
    """What one file holds.

    A file that cannot be read or used for a moment (a mounted secret is being replaced) leaves the last
    secrets in force; one that has become empty lets nobody in.

    Attributes:
        kind: of secret, for messages.
    """

    kind: ClassVar[str]

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidSecretFile: it cannot be read, has no secret, or a line that is none.
        """
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._read()
        if not self._count():
            raise self._invalid(f"it holds no {self.kind}: write one a line")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r}, {self._count()} {self.kind}s)"

    @abstractmethod
    def _count(self) -> int:
        """Count the secrets."""

    @abstractmethod
    def _take(self, lines: Iterator[tuple[int, list[str]]]) -> None:
        """Take over what the file says by now: numbers of lines, and their words, at least one.

        Raises:
            InvalidSecretFile: a line is none; what was taken before stays.
        """

    def _invalid(self, reason: str) -> InvalidSecretFile:
        return InvalidSecretFile(self.kind, self._path, reason)

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self._path)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        try:
            self._read()
        except InvalidSecretFile as error:
            # The stamp is kept, so that this is said once and not at every request.
            self._stamp = stamp
            _log.warning("the last %ss stay in force: %s", self.kind, error)

    def _read(self) -> None:
        try:
            stamp = _stamp(self._path)
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise self._invalid(f"cannot read it: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self._invalid("it is not text") from error
        self._take(
            (number, words)
            for number, line in enumerate(text.splitlines(), 1)
            if (words := line.split()) and not words[0].startswith("#")
        )
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
