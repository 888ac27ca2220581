"""Reading JSON documents of known shape: every wrong shape is the one ``FormatError``."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from .errors import FormatError, InvalidReference, quoted

__all__ = ["Document", "dump_json", "load_json", "raw_member"]

_MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
# The escapes that JSON allows and UTF-8 does not, unless they come in pairs.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_WHITESPACE = re.compile(r"[ \t\n\r]*")

T = TypeVar("T")


def dump_json(value: object) -> bytes:
    """Serialize deterministically: no spaces, UTF-8, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def load_json(data: bytes | bytearray | memoryview, what: str) -> Document:
    """Parse data as a JSON object.

    Stricter than ``json.loads``, so that no two readers see different things: UTF-8 alone, no NaN, nothing
    that overflows to infinity, no key twice in one object, no lone surrogates.

    Raises:
        FormatError: not such JSON, not an object, or nested absurdly deep; what names the document.
    """
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise FormatError(what, f"{len(data)} bytes: expected at most {_MAX_DOCUMENT_BYTES}")
    try:
        text = str(data, "utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            dump_json(value)
    except (ValueError, RecursionError) as error:
        raise FormatError(what, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(what, f"expected a JSON object, found {type(value).__name__}")
    return Document(value, what)


def raw_member(data: bytes | bytearray | memoryview, key: str) -> bytes:
    """Return what stands for one member, byte for byte as it was written.

    Args:
        data: a document that ``load_json`` accepts.
        key: a member that it has.
    """
    text = str(data, "utf-8")
    decoder = json.JSONDecoder()
    position = _after_whitespace(text, 0)
    name = None
    while name != key:
        # Past the { of the object, or the comma after the member before.
        name, position = decoder.raw_decode(text, _after_whitespace(text, position + 1))
        start = _after_whitespace(text, position) + 1
        _, stop = decoder.raw_decode(text, _after_whitespace(text, start))
        position = _after_whitespace(text, stop)
    return text[start:position].encode("utf-8")


def _after_whitespace(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    assert match is not None
    return match.end()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = max(Counter(key for key, _ in pairs).items(), key=lambda item: item[1])[0]
        raise ValueError(f"key {quoted(twice)} stands twice in one object")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{quoted(digits)} is too large a number")
    return value


class Document:
    """A JSON object whose members are read by the type they must have; unknown members are ignored."""

    def __init__(self, members: dict[str, object], what: str) -> None:
        self.members = members
        self.what = what

    def _get(self, key: str, kind: type[T], default: T | None, *, required: bool) -> T | None:
        value = self.members.get(key)
        if value is None:
            if required:
                raise FormatError(self.what, f"{key} is missing")
            return default
        # bool is an int in Python, and is none in JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FormatError(self.what, f"{key}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    def text(self, key: str) -> str:
        """Return a string that must be there."""
        value = self._get(key, str, None, required=True)
        assert value is not None
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None where it is absent or null."""
        return self._get(key, str, None, required=False)

    def integer(self, key: str, minimum: int = 0, maximum: int = 2**63 - 1) -> int:
        """Return an integer that must be there, within bounds (both inclusive)."""
        value = self._get(key, int, None, required=True)
        assert value is not None
        if not minimum <= value <= maximum:
            raise FormatError(self.what, f"{key}: {value} is not within {minimum} to {maximum}")
        return value

    def optional_integer(self, key: str, minimum: int = 0, maximum: int = 2**63 - 1) -> int | None:
        """Return an integer within bounds, or None where it is absent or null."""
        if self.members.get(key) is None:
            return None
        return self.integer(key, minimum, maximum)

    def member(self, key: str) -> Document:
        """Return an object that must be there."""
        value = self._get(key, dict, None, required=True)
        assert value is not None
        return Document(value, f"{self.what}, {key}")

    def optional_member(self, key: str) -> Document | None:
        """Return an object, or None where it is absent or null."""
        return None if self.members.get(key) is None else self.member(key)

    def members_of(self, key: str) -> list[Document]:
        """Return a list of objects; absent means empty."""
        values = self._get(key, list, [], required=False)
        assert values is not None
        if not all(isinstance(value, dict) for value in values):
            raise FormatError(self.what, f"{key}: expected a list of objects")
        return [Document(value, f"{self.what}, {key}[{index}]") for index, value in enumerate(values)]

    def texts(self, key: str) -> dict[str, str]:
        """Return an object whose values are all strings; absent means empty."""
        values = self._get(key, dict, {}, required=False)
        assert values is not None
        if not all(isinstance(value, str) for value in values.values()):
            raise FormatError(self.what, f"{key}: expected strings")
        return values

    def base64(self, key: str) -> bytes:
        """Return the bytes of a base64 string that must be there."""
        try:
            return base64.b64decode(self.text(key), validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(self.what, f"{key}: not base64: {error}") from error

    def check(self, key: str, check: Callable[[str], str], value: str) -> str:
        """Apply one of the checks of ``references`` to value; its error becomes ours."""
        try:
            return check(value)
        except InvalidReference as error:
            raise FormatError(self.what, f"{key}: {error}") from error
