"""The file of keys by which S3 clients sign: read at the start, and again when it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotstart_proxy.server.secret_files import SecretFile
from hotstart_proxy.server.tokens import Rights

__all__ = ["S3Keys"]

# AWS allows 16 to 128 characters; other systems take shorter ones.
_ACCESS_KEY = re.compile(r"[A-Za-z0-9._-]{3,128}", re.ASCII)
_PREMIUM = "premium"


@dataclass(frozen=True, slots=True)
class _Key:
    secret: str = field(repr=False)
    rights: Rights


class S3Keys(SecretFile):
    """The keys of one file, one a line: id, secret, and perhaps the word ``premium``."""

    kind = "key"

    def __init__(self, path: Path) -> None:
        """Read the file (errors as SecretFile)."""
        self._keys: Mapping[str, _Key] = {}
        super().__init__(path)

    def _count(self) -> int:
        return len(self._keys)

    def secret_of(self, access_key: str) -> str | None:
        """Return the secret of a key id, as the file has it now; None for an unknown one."""
        self._refresh()
        key = self._keys.get(access_key)
        return None if key is None else key.secret

    def rights_of(self, access_key: str) -> Rights:
        """Return what requests signed by a key may."""
        key = self._keys.get(access_key)
        return Rights() if key is None else key.rights

    def _take(self, lines: Iterator[tuple[int, list[str]]]) -> None:
        keys: dict[str, _Key] = {}
        for number, words in lines:
            if len(words) not in (2, 3) or words[2:] not in ([], [_PREMIUM]):
                raise self._invalid(
                    f"line {number}: expected ID SECRET, and only the word {_PREMIUM} behind them"
                )
            if not _ACCESS_KEY.fullmatch(words[0]):
                raise self._invalid(f"line {number}: an id is 3 to 128 of A-Z a-z 0-9 . _ -")
            if words[0] in keys:
                raise self._invalid(f"line {number}: the id stands there twice")
            keys[words[0]] = _Key(words[1], Rights(premium=len(words) == 3))
        self._keys = keys
