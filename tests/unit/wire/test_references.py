"""References: the grammar of design.md's words, and its spelling in URLs."""

from __future__ import annotations

import unicodedata

import pytest

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import (
    NotCanonical,
    Reference,
    check_alias,
    check_file,
    check_model,
    check_version,
    parse_reference,
    parse_url_path,
)

PLAIN = {
    "bert": Reference("library/bert"),
    "bert@7": Reference("library/bert", "7"),
    "bert@7/config.json": Reference("library/bert", "7", "config.json"),
    "bert@7/1_Pooling/config.json": Reference("library/bert", "7", "1_Pooling/config.json"),
    "org/bert": Reference("org/bert"),
    "org/bert@prod": Reference("org/bert", "prod"),
    "org/bert@latest": Reference("org/bert", "latest"),
    "org/bert@main": Reference("org/bert", "main"),
    "org/bert@" + "a" * 40: Reference("org/bert", "a" * 40),
    "org/bert@7/tokenizer.json": Reference("org/bert", "7", "tokenizer.json"),
    "org/bert@7/unet/x.safetensors": Reference("org/bert", "7", "unet/x.safetensors"),
    "Org/BERT-v1.5_x@2026-11-24": Reference("Org/BERT-v1.5_x", "2026-11-24"),
    "org/bert@7/añadir/日本.txt": Reference("org/bert", "7", "añadir/日本.txt"),
    "org/bert@7/two words (1).json": Reference("org/bert", "7", "two words (1).json"),
    "org/bert@7/.gitattributes": Reference("org/bert", "7", ".gitattributes"),
    "org/bert@7/100%.txt": Reference("org/bert", "7", "100%.txt"),
}


@pytest.mark.parametrize(("text", "reference"), PLAIN.items())
def test_plain_form(text: str, reference: Reference) -> None:
    """Every form of the grammar is read, and a canonical one is written back as it was."""
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference
    if "/" in text.partition("@")[0]:
        assert str(reference) == text


@pytest.mark.parametrize("reference", PLAIN.values())
def test_url_round_trip(reference: Reference) -> None:
    """What a reference writes into a URL is read back as the same reference, with @ written literally."""
    path = reference.url_path()
    assert path.isascii()
    assert "%40" not in path
    assert parse_url_path(path) == reference


def test_model_names_are_case_sensitive() -> None:
    """Two spellings are two models."""
    assert parse_reference("org/bert") != parse_reference("org/BERT")


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        ("org/bert%407", "org/bert@7"),
        ("bert%407/a.json", "library/bert@7/a.json"),
        ("org/bert%40prod/caf%C3%A9.txt", "org/bert@prod/caf%C3%A9.txt"),
    ],
)
def test_encoded_at_is_redirected(raw: str, location: str) -> None:
    """%40 in place of @ is answered with the literal spelling to go to."""
    with pytest.raises(NotCanonical) as caught:
        parse_url_path(raw)
    assert caught.value.location == location
    assert str(parse_url_path(location))


def test_segments_are_split_before_they_are_decoded() -> None:
    """An escaped slash never makes a segment, and nothing is decoded twice."""
    with pytest.raises(InvalidReference, match="%2F"):
        parse_url_path("org%2Fbert@7")
    assert parse_url_path("org/bert@7/a%252Fb").file == "a%2Fb"
    assert parse_url_path("org/bert@7/a%2540b").file == "a%40b"


def test_escapes_of_either_case_are_decoded_once() -> None:
    """%c3%a9 and %C3%A9 are the same letter."""
    assert parse_url_path("org/bert@7/%c3%a9") == parse_url_path("org/bert@7/%C3%A9")
    assert parse_url_path("org/bert@7/%c3%a9").file == "é"


def test_longest_names() -> None:
    """A segment may have 96 characters, a file 16 segments of 255 bytes."""
    assert check_model(f"{'o' * 96}/{'m' * 96}")
    assert check_version("v" * 96) == check_alias("v" * 96)
    assert check_file("/".join(["f" * 255] * 16))


def test_names_that_are_kept_for_others() -> None:
    """latest, main and 40 hex digits can be asked for but never given; 39 and 41 digits can."""
    for name in ("latest", "main", "0" * 40, "ABCDEFabcd" * 4):
        with pytest.raises(InvalidReference):
            check_version(name)
        with pytest.raises(InvalidReference):
            check_alias(name)
        assert parse_reference(f"org/bert@{name}").selector == name
    assert check_version("0" * 39)
    assert check_version("0" * 41)
    assert check_version("Latest")


def test_error_says_what_was_given_and_expected() -> None:
    """The error quotes the whole reference, not the part that failed, and cuts what is huge."""
    with pytest.raises(InvalidReference) as caught:
        parse_reference("org/bert@7/../secret")
    assert caught.value.text == "org/bert@7/../secret"
    assert "'org/bert@7/../secret' is not a valid reference: file: segments . and .." in str(caught.value)
    with pytest.raises(InvalidReference) as caught:
        parse_reference("x" * 1_000_000)
    assert len(str(caught.value)) < 400


def test_what_is_printable_is_a_table_of_our_own() -> None:
    """Of all characters that this Python knows the printable ones are taken, and so are those yet to come."""
    for character in map(chr, range(0x110000)):
        category = unicodedata.category(character)
        try:
            check_file(unicodedata.normalize("NFC", f"a{character}b"))
        except InvalidReference:
            taken = False
        else:
            taken = True
        if character in "/\\@:":
            continue
        if category == "Cn":
            assert taken or not character.isprintable()
        else:
            assert taken == character.isprintable(), f"U+{ord(character):04X} {category}"
    # Not assigned in the Unicode of any Python there is; a later one may.
    assert check_file("\u0378") == "\u0378"
