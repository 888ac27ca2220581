"""Hostile references, each with the error it must give."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import NotCanonical, parse_reference, parse_url_path

MODEL = "a model is name or org/name"
SELECTOR = "version or alias: expected 1 to 96 of"
DOTS = "segments . and .. are not allowed"
RESERVED = "names that begin .hotstart are reserved"
CHARACTERS = "the characters \\ @ : are not allowed"
CONTROL = "control and other unprintable characters"
PATH = "org/bert@7/"

# Plain form: what the error says. The same text gives the same error as a URL path, unless noted below.
HOSTILE: dict[str, str] = {
    "": MODEL,
    "/": MODEL,
    "//": "a file needs a version",
    "/bert": MODEL,
    "/org/bert@7": "one @ at most|a file needs a version",
    "org/": MODEL,
    "org/bert/": "a file needs a version or alias: org/name@version/file",
    "org/bert/tokenizer.json": "a file needs a version or alias",
    "org//bert": "a file needs a version",
    ".": MODEL,
    "..": MODEL,
    "../bert": MODEL,
    "org/..": MODEL,
    "org/../etc@7": "a file needs a version",
    ".hotstart": MODEL,
    "org/.hotstart": MODEL,
    "-rf": MODEL,
    "_org/bert": MODEL,
    "org/bert ": MODEL,
    " org/bert": MODEL,
    "org/bert\n": MODEL,
    "org/bärt": MODEL,
    "org/ｂert": MODEL,
    "o" * 97: MODEL,
    "org/" + "m" * 97: MODEL,
    "s3://bucket/key": "a file needs a version",
    "C:\\models\\bert": MODEL,
    "org\\bert": MODEL,
    "@7": MODEL,
    "org/@7": MODEL,
    "bert@": "expected a version or alias after @",
    "org/bert@": "expected a version or alias after @",
    "org/bert@/file": "expected a version or alias after @",
    "org/bert@7@8": "one @ at most",
    "bert@@7": "one @ at most",
    "org/bert@.": SELECTOR,
    "org/bert@..": SELECTOR,
    "org/bert@.hotstart": SELECTOR,
    "org/bert@-7": SELECTOR,
    "org/bert@7 ": SELECTOR,
    "org/bert@7:warm": SELECTOR,
    "org/bert@" + "v" * 97: SELECTOR,
    "org/bert@٧": SELECTOR,
    "org@7/bert@8": CHARACTERS,
    PATH: "empty segment",
    PATH + "/": "empty segment",
    PATH + "a//b": "empty segment",
    PATH + "a/": "empty segment",
    PATH + "/etc/passwd": "empty segment",
    PATH + ".": DOTS,
    PATH + "..": DOTS,
    PATH + "../8/model.safetensors": DOTS,
    PATH + "a/../../../etc/passwd": DOTS,
    PATH + "a/./b": DOTS,
    PATH + ".hotstart/manifest.json": RESERVED,
    PATH + ".hotstart": RESERVED,
    PATH + ".hotstart-tmp": RESERVED,
    PATH + "a/.hotstart/begin.json": RESERVED,
    PATH + "a\\b": CHARACTERS,
    PATH + "..\\..\\etc": CHARACTERS,
    PATH + "a@b": CHARACTERS,
    PATH + "a:b": CHARACTERS,
    PATH + "a\0b": CONTROL,
    PATH + "a\nb": CONTROL,
    PATH + "a\x7fb": CONTROL,
    PATH + "a\x1b[31mb": CONTROL,
    PATH + "a\u202eb": CONTROL,
    PATH + "a\u200bb": CONTROL,
    PATH + "a\ufeffb": CONTROL,
    PATH + "a\u2028b": CONTROL,
    PATH + "a\ue000b": CONTROL,
    PATH + "a\ud800b": CONTROL,
    PATH + "a\u00a0b": CONTROL,
    PATH + "a\u3000b": CONTROL,
    PATH + "a\ufffeb": CONTROL,
    PATH + "a\U0001ffffb": CONTROL,
    PATH + "a\U000e0041b": CONTROL,
    PATH + "cafe\u0301": "expected Unicode in normal form C",
    PATH + "\u212b": "expected Unicode in normal form C",
    PATH + "x" * 256: "a segment is at most 255 bytes",
    PATH + "é" * 128: "a segment is at most 255 bytes",
    PATH + "/".join("abcdefghijklmnopq"): "at most 16 segments",
}

# Raw URL path: what the error says.
HOSTILE_PATHS: dict[str, str] = {
    "org%2Fbert@7": "%2F and %00 are not allowed",
    "org%2fbert@7": "%2F and %00 are not allowed",
    PATH + "a%2fb": "%2F and %00 are not allowed",
    PATH + "a%00": "%2F and %00 are not allowed",
    PATH + "%2e%2e/8/config.json": DOTS,
    PATH + "%2E": DOTS,
    PATH + ".%2e": DOTS,
    PATH + "%2ehotstart/manifest.json": RESERVED,
    PATH + "%5c": CHARACTERS,
    PATH + "a%40b": CHARACTERS,
    PATH + "a%3Ab": CHARACTERS,
    PATH + "a%0d%0aSet-Cookie:x": CONTROL,
    PATH + "a%1b": CONTROL,
    PATH + "%": "% begins an escape of two hex digits",
    PATH + "%4": "% begins an escape of two hex digits",
    PATH + "%zz": "% begins an escape of two hex digits",
    PATH + "%+1": "% begins an escape of two hex digits",
    PATH + "%u0041": "% begins an escape of two hex digits",
    PATH + "%ff": "escapes are not valid UTF-8",
    PATH + "%c3": "escapes are not valid UTF-8",
    PATH + "%c0%ae%c0%ae": "escapes are not valid UTF-8",
    PATH + "%c0%af": "escapes are not valid UTF-8",
    PATH + "%ed%a0%80": "escapes are not valid UTF-8",
    PATH + "café": "a URL path is ASCII",
    "org/bert%2540prod": MODEL,
    "org/bert@%40": "one @ at most",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_form(text: str) -> None:
    """A hostile reference is never taken for another; the error says which rule it breaks."""
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert any(part in caught.value.reason for part in HOSTILE[text].split("|"))
    assert caught.value.text == text
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isascii() and "%" not in text])
def test_same_as_a_path(text: str) -> None:
    """The facades refuse what the command line refuses: there is one parser."""
    with pytest.raises(InvalidReference) as caught:
        parse_url_path(text)
    assert any(part in caught.value.reason for part in HOSTILE[text].split("|"))


@pytest.mark.parametrize("raw", HOSTILE_PATHS)
def test_path(raw: str) -> None:
    """A hostile path is refused, and never redirected."""
    with pytest.raises(InvalidReference) as caught:
        parse_url_path(raw)
    assert not isinstance(caught.value, NotCanonical)
    assert HOSTILE_PATHS[raw] in caught.value.reason
    assert len(str(caught.value)) < 500
