"""The root of every hotstart error, and the errors that parsing raises."""

from __future__ import annotations

__all__ = ["FormatError", "HotstartError", "IntegrityError", "InvalidReference"]

# An error message quotes what it was given; this keeps a hostile megabyte out of logs.
_MAX_QUOTED_CHARS = 120


def quoted(text: str) -> str:
    """Return text as a literal, cut to a length that fits a log line."""
    return repr(text if len(text) <= _MAX_QUOTED_CHARS else text[:_MAX_QUOTED_CHARS] + "…")


class HotstartError(Exception):
    """Root of all errors that hotstart raises on purpose."""


class InvalidReference(HotstartError):
    """A reference, model, version, alias or file name breaks the grammar.

    Attributes:
        text: what was given.
        reason: what is wrong with it, and what was expected.
    """

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"{quoted(text)} is not a valid reference: {reason}")


class FormatError(HotstartError):
    """Bytes do not follow the format they claim: the one error that every parser in ``wire`` raises.

    Attributes:
        what: the structure that was parsed, for example ``"Safetensors header"``.
        reason: what was found, and what was expected.
    """

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"malformed {what}: {reason}")


class IntegrityError(HotstartError):
    """Bytes are well-formed but not the bytes that were published.

    Attributes:
        what: the file or piece, with its place.
        expected: the digest that was announced.
        found: the digest of what arrived.
    """

    def __init__(self, what: str, expected: str, found: str) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        super().__init__(f"{what} is damaged: expected {expected}, found {found}")
