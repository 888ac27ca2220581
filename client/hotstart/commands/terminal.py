"""Text for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Escape what a terminal might obey: keys of an origin and strings in files come from anyone."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
