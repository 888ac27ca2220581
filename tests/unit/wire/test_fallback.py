"""The fallback manifest."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart.wire.references import parse_reference

ID = "ab" * 32
MANIFEST = Manifest(
    "org/bert", "7", 0, (File("config.json", 2, ID, ID, "application/json", OriginObject("k", '"e"')),)
)
URL = "https://bucket.example/key?X-Amz-Signature=secret"
FALLBACK = FallbackManifest(
    model="org/bert",
    version="7",
    manifest=MANIFEST,
    manifest_bytes=MANIFEST.dump(),
    urls={"config.json": URL},
    signed_at=1_795_491_014_123,
    session_ends_at=1_795_494_614_123,
    expires_at=1_795_494_614_123,
    names=("prod", "latest", "main"),
)


def changed(**members: object) -> bytes:
    return json.dumps(json.loads(FALLBACK.dump()) | members).encode()


def test_round_trip() -> None:
    """What presign writes the client reads, with the manifest's bytes as they are at the origin."""
    assert FallbackManifest.parse(FALLBACK.dump()) == FALLBACK
    assert MANIFEST.dump() in FALLBACK.dump()
    assert FallbackManifest.parse(changed(new={"x": 1}, session_ends_at=None)).session_ends_at is None


@pytest.mark.parametrize(
    ("reference", "answered"),
    [
        ("org/bert@7", True),
        ("org/bert@prod", True),
        ("org/bert@latest", True),
        ("org/bert", True),
        ("org/bert@prod/config.json", True),
        ("org/bert@8", False),
        ("org/bert@canary", False),
        ("org/other@7", False),
    ],
)
def test_answers(reference: str, answered: bool) -> None:
    """It answers for the names that meant its version when it was signed, and for no other."""
    assert FALLBACK.answers(parse_reference(reference)) == answered


def test_urls_are_secret() -> None:
    """A pre-signed URL is neither in the repr nor in an error, which may reach a log."""
    assert "secret" not in repr(FALLBACK)
    with pytest.raises(FormatError) as refused:
        FallbackManifest.parse(changed(urls={"config.json": "ftp://x/?X-Amz-Signature=secret"}))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"version": "8"}, "its manifest of another"),
        ({"urls": {"x": URL}}, "is no file of the version"),
        ({"urls": {"config.json": "/etc/passwd"}}, "not an http or https URL"),
        ({"urls": {"config.json": "http://[x/"}}, "not a URL"),
        ({"names": "prod"}, "expected a list"),
        ({"names": [1]}, "expected strings"),
        ({"names": ["a/b"]}, "names"),
        ({"signed_at": "yesterday"}, "time"),
        ({"manifest": None}, "manifest is missing"),
    ],
)
def test_malformed(members: dict[str, object], reason: str) -> None:
    """What is no fallback manifest of format 1 is the one documented error."""
    with pytest.raises(FormatError, match=reason):
        FallbackManifest.parse(changed(**members))
