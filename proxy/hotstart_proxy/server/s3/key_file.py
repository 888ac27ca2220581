"""The file of keys by which S3 clients sign: read at the start, and again when it changes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.wire.errors import HotstartError
from hotstart_proxy.server.tokens import Rights

__all__ = ["InvalidKeyFile", "S3Keys"]

_log = logging.getLogger("hotstart_proxy.s3_keys")
# AWS allows 16 to 128 characters; other systems take shorter ones.
_ACCESS_KEY = re.compile(r"[A-Za-z0-9._-]{3,128}", re.ASCII)
_PREMIUM = "premium"


class InvalidKeyFile(HotstartError):
    """The file of keys cannot be used; secrets are never in the message."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"key file {path}: {reason}")


@dataclass(frozen=True, slots=True)
class _Key:
    secret: str = field(repr=False)
    rights: Rights


class S3Keys:
    """The keys of one file, one a line: id, secret, and perhaps the word ``premium``.

    As with tokens: a file that cannot be read or used leaves the last keys in force, one that has become
    empty lets nobody in.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidKeyFile: it cannot be read, has no key, or a line that is none.
        """
        self._path = path
        self._keys: Mapping[str, _Key] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._read()
        if not self._keys:
            raise InvalidKeyFile(path, "it holds no key: write ID SECRET, one pair a line")

    def __repr__(self) -> str:
        return f"S3Keys({str(self._path)!r}, {len(self._keys)} keys)"

    def secret_of(self, access_key: str) -> str | None:
        """Return the secret of a key id, as the file has it now; None for an unknown one."""
        self._refresh()
        key = self._keys.get(access_key)
        return None if key is None else key.secret

    def rights_of(self, access_key: str) -> Rights:
        """Return what requests signed by a key may."""
        key = self._keys.get(access_key)
        return Rights() if key is None else key.rights

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self._path)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        try:
            self._read()
        except InvalidKeyFile as error:
            # The stamp is kept, so that this is said once and not at every request.
            self._stamp = stamp
            _log.warning("the last keys stay in force: %s", error)

    def _read(self) -> None:
        try:
            stamp = _stamp(self._path)
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidKeyFile(self._path, f"cannot read it: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidKeyFile(self._path, "it is not text") from error
        keys: dict[str, _Key] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) not in (2, 3) or words[2:] not in ([], [_PREMIUM]):
                raise InvalidKeyFile(
                    self._path, f"line {number}: expected ID SECRET, and only the word {_PREMIUM} behind them"
                )
            if not _ACCESS_KEY.fullmatch(words[0]):
                raise InvalidKeyFile(self._path, f"line {number}: an id is 3 to 128 of A-Z a-z 0-9 . _ -")
            if words[0] in keys:
                raise InvalidKeyFile(self._path, f"line {number}: the id stands there twice")
            keys[words[0]] = _Key(words[1], Rights(premium=len(words) == 3))
        self._keys, self._stamp = keys, stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
