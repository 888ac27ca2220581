"""References: how a model, a version or alias of it, and a file in that are named.

The grammar (docs/semantics.md) is one for URLs, the command line, the client and logs:
``org/bert``, ``org/bert@7``, ``org/bert@prod/tokenizer.json``, and ``x`` for ``library/x``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote

from .errors import InvalidReference

__all__ = [
    "LATEST",
    "RESERVED_PREFIX",
    "NotCanonical",
    "Reference",
    "check_alias",
    "check_file",
    "check_model",
    "check_version",
    "decode_segment",
    "parse_reference",
    "parse_url_path",
]

LATEST = "latest"
# The Hub's name for what a model means when nothing more is said.
MAIN = "main"
DEFAULT_ALIAS = "prod"
RESERVED_PREFIX = ".hotstart"
DEFAULT_ORGANISATION = "library"
MAX_FILE_SEGMENTS = 16
# As long as a file name may be on Linux: a longer segment could not be stored in a directory origin.
MAX_FILE_SEGMENT_BYTES = 255

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_COMMIT_ID = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_SEGMENT_RULE = "1 to 96 of A-Z a-z 0-9 . _ - that begin with a letter or digit"
# Control, format, private and non-characters, surrogates, and all separators but the space. A table of our
# own, not str.isprintable: that one grows with Unicode, and an older Python must read what a newer one wrote.
# Characters that nobody has assigned yet are let through, save where format characters are to come.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    "\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
    + "]"
)
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")


class NotCanonical(InvalidReference):
    """A URL path that names something valid in a spelling that is not the one we use.

    Attributes:
        location: the canonical spelling, percent-encoded, to redirect to (308).
    """

    def __init__(self, text: str, location: str) -> None:
        self.location = location
        super().__init__(text, f"write @ literally, as in {location}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Attributes:
        model: two segments, ``org/name``.
        selector: a version, an alias or ``latest``; None means ``@prod`` if there is one, else ``@latest``.
        file: a path inside the version; None for the version itself.
    """

    model: str
    selector: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        text = self.model
        if self.selector is not None:
            text += f"@{self.selector}"
        if self.file is not None:
            text += f"/{self.file}"
        return text

    def url_path(self) -> str:
        """Return the percent-encoded path, without a leading slash; ``@`` stays literal."""
        return quote(str(self), safe="/@!$&'()*+,;=~")


def check_model(text: str) -> str:
    """Return the canonical two-segment name of a model; ``x`` becomes ``library/x``.

    Raises:
        InvalidReference: the name has other than one or two segments of the alphabet.
    """
    segments = text.split("/")
    if len(segments) == 1:
        segments = [DEFAULT_ORGANISATION, *segments]
    if len(segments) != 2 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise InvalidReference(text, f"a model is name or org/name, each {_SEGMENT_RULE}")
    return "/".join(segments)


def check_version(text: str) -> str:
    """Return text if it can be a version id.

    Raises:
        InvalidReference: other characters, 40 hex digits, ``latest`` or ``main``.
    """
    return _check_name(text, "version")


def check_alias(text: str) -> str:
    """Return text if it can be an alias; the rules are a version's, so that either may stand after ``@``."""
    return _check_name(text, "alias")


def _check_name(text: str, kind: str) -> str:
    if not _SEGMENT.fullmatch(text):
        raise InvalidReference(text, f"{kind}: expected {_SEGMENT_RULE}")
    if text in (LATEST, MAIN):
        raise InvalidReference(text, f"{kind}: latest and main are computed and cannot be given")
    if _COMMIT_ID.fullmatch(text):
        raise InvalidReference(text, f"{kind}: 40 hex digits are kept for the ids that Hub clients use")
    return text


def check_file(path: str) -> str:
    """Return path if it can name a file of a version.

    Raises:
        InvalidReference: not 1 to 16 segments of printable UTF-8 in NFC, or a character or segment that is
            not allowed (``\\``, ``@``, ``:``, ``.``, ``..``, a segment that begins ``.hotstart``).
    """
    segments = path.split("/")
    if len(segments) > MAX_FILE_SEGMENTS:
        raise InvalidReference(path, f"file: at most {MAX_FILE_SEGMENTS} segments")
    for segment in segments:
        reason = _file_segment_fault(segment)
        if reason is not None:
            raise InvalidReference(path, f"file: {reason}")
    return path


def _file_segment_fault(segment: str) -> str | None:
    if not segment:
        return "empty segment"
    if segment in (".", ".."):
        return "segments . and .. are not allowed"
    if segment.startswith(RESERVED_PREFIX):
        return f"names that begin {RESERVED_PREFIX} are reserved"
    if _UNPRINTABLE.search(segment):
        return "control and other unprintable characters are not allowed"
    if any(character in segment for character in "\\@:"):
        return "the characters \\ @ : are not allowed"
    try:
        encoded = segment.encode("utf-8")
    except UnicodeEncodeError:
        return "not valid UTF-8"
    if len(encoded) > MAX_FILE_SEGMENT_BYTES:
        return f"a segment is at most {MAX_FILE_SEGMENT_BYTES} bytes"
    if not unicodedata.is_normalized("NFC", segment):
        return "expected Unicode in normal form C"
    return None


def parse_reference(text: str) -> Reference:
    """Parse a reference in its plain, decoded form.

    Raises:
        InvalidReference: text breaks the grammar.
    """
    return _from_segments(text, text.split("/"))


def parse_url_path(raw: str) -> Reference:
    """Parse a reference from a raw, still percent-encoded URL path without query and leading slash.

    The path is split on ``/`` first and each segment decoded once, so ``%2F`` can never make a segment.

    Raises:
        NotCanonical: valid, but ``@`` is written ``%40``.
        InvalidReference: text breaks the grammar, ``%2F``, ``%00``, or an escape that is not UTF-8.
    """
    reference = _from_segments(raw, [decode_segment(raw, segment) for segment in raw.split("/")])
    if "%40" in raw:
        raise NotCanonical(raw, reference.url_path())
    return reference


def decode_segment(raw: str, segment: str) -> str:
    """Decode one segment of a raw URL path, once.

    Args:
        raw: the whole path, for the error.
        segment: what stands between two slashes of it.

    Raises:
        InvalidReference: ``%2F``, ``%00``, an escape that is none, or bytes that are not UTF-8.
    """
    try:
        encoded = segment.encode("ascii")
    except UnicodeEncodeError as error:
        raise InvalidReference(
            raw, "a URL path is ASCII; write other characters as %XX of their UTF-8"
        ) from error

    def decode(match: re.Match[bytes]) -> bytes:
        digits = match.group(1)
        if digits is None:
            raise InvalidReference(raw, "% begins an escape of two hex digits")
        if digits.lower() in (b"2f", b"00"):
            raise InvalidReference(raw, "%2F and %00 are not allowed")
        return bytes((int(digits, 16),))

    try:
        return _PERCENT.sub(decode, encoded).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidReference(raw, "escapes are not valid UTF-8") from error


def _from_segments(text: str, segments: list[str]) -> Reference:
    # The segment with the @ ends the model: the first (one-segment name) or the second.
    model_segments = 1 if "@" in segments[0] else 2
    head, _, selector = "/".join(segments[:model_segments]).partition("@")
    file_segments = segments[model_segments:]
    if "@" in selector:
        raise InvalidReference(text, "one @ at most, before the version or alias")
    if not selector and "@" in "".join(segments[:model_segments]):
        raise InvalidReference(text, "expected a version or alias after @")
    if file_segments and not selector:
        raise InvalidReference(text, "a file needs a version or alias: org/name@version/file")
    try:
        model = check_model(head)
        if selector:
            _check_selector(selector)
        file = check_file("/".join(file_segments)) if file_segments else None
    except InvalidReference as error:
        raise InvalidReference(text, error.reason) from error
    return Reference(model, selector or None, file)


def _check_selector(text: str) -> None:
    # The Hub's names may be asked for though they can never be given: main, latest, and 40-hex ids.
    if not _SEGMENT.fullmatch(text):
        raise InvalidReference(text, f"version or alias: expected {_SEGMENT_RULE}")
