"""Content ids and digests."""

from __future__ import annotations

import hashlib

import pytest

from hotstart.wire import digests


def test_published_id_is_the_sha256() -> None:
    """The id of published bytes is their sha256, so the same bytes are one blob."""
    assert digests.sha256_id(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digests.sha256_id(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_adopted_id_is_as_designed() -> None:
    """The id of an adopted file is the sha256 of its six facts with NUL between them, and never changes."""
    found = digests.adopted_id("https://s3.example", "bucket", "p/org/bert/7/a", '"etag"', 12)
    expected = b'hotstart-adopted-1\0https://s3.example\0bucket\0p/org/bert/7/a\0"etag"\x0012'
    assert found == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("changed", range(5))
def test_adopted_id_depends_on_every_fact(changed: int) -> None:
    """A replaced object, or the same key elsewhere, gets another id."""
    facts = ["https://s3.example", "bucket", "key", '"etag"', "12"]
    other = [fact + "0" if index == changed else fact for index, fact in enumerate(facts)]
    assert digests.adopted_id(facts[0], facts[1], facts[2], facts[3], int(facts[4])) != digests.adopted_id(
        other[0], other[1], other[2], other[3], int(other[4])
    )


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("0" * 64, True),
        ("0123456789abcdef" * 4, True),
        ("A" * 64, False),
        ("0" * 63, False),
        ("0" * 65, False),
        ("0" * 64 + "\n", False),
        ("٣" * 64, False),
        ("", False),
    ],
)
def test_is_content_id(text: str, valid: bool) -> None:
    """A content id is 64 lower-case hex digits and nothing else."""
    assert digests.is_content_id(text) is valid


def test_header_values() -> None:
    """ETag and Repr-Digest are written as RFC 9110 and RFC 9530 say."""
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert digests.etag(sha256) == f'"{sha256}"'
    assert digests.repr_digest(sha256) == "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"
