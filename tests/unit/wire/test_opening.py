"""The answer to open."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import Manifest
from hotstart.wire.opening import Fallback, Opening

MANIFEST = Manifest("org/bert", "7", 0, ())
URL = "https://bucket.example/key?X-Amz-Signature=secret"


@pytest.mark.parametrize("fallback", [None, Fallback({"model.safetensors": URL}, 3600)])
def test_round_trip(fallback: Fallback | None) -> None:
    """What the proxy writes the client reads."""
    opening = Opening(MANIFEST, MANIFEST.dump(), fallback, {"model.safetensors": 5})
    assert Opening.parse(opening.dump()) == opening
    assert json.loads(opening.dump())["version"] == "7"


def test_manifest_keeps_its_bytes() -> None:
    """The manifest arrives byte for byte as at the origin, so that its id and signature still hold."""
    written = (
        json.dumps(json.loads(MANIFEST.dump()) | {"signature": [1.0, "\u00e9"]}, indent=2).encode() + b"\n"
    )
    assert Opening.parse(Opening(MANIFEST, written).dump()).manifest_bytes == written


def test_unknown_members_are_ignored() -> None:
    """A later proxy may say more."""
    document = json.loads(Opening(MANIFEST, MANIFEST.dump()).dump()) | {"new": {"x": 1}}
    assert Opening.parse(json.dumps(document).encode()).manifest == MANIFEST


def test_urls_are_secret() -> None:
    """A pre-signed URL is not in the repr, which may reach a log."""
    fallback = Fallback({"model.safetensors": URL}, 3600)
    assert "secret" not in repr(fallback)
    assert "secret" not in repr(Opening(MANIFEST, b"", fallback))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"version": "8"}, "are not the manifest's"),
        ({"model": "org/gpt"}, "are not the manifest's"),
        ({"manifest": None}, "manifest is missing"),
        ({"manifest": {"format": 1}}, "files is missing"),
        ({"fallback": {"urls": {"a": 1}, "expires_in_seconds": 1}}, "urls: expected strings"),
        ({"fallback": {"urls": {}}}, "expires_in_seconds is missing"),
        ({"fallback": {"urls": {}, "expires_in_seconds": -1}}, "expires_in_seconds: -1"),
        ({"cached": {"a": "1"}}, "a: expected int"),
        ({"cached": {"a": -1}}, "a: -1 is not within"),
    ],
)
def test_malformed(members: dict[str, object], reason: str) -> None:
    """An answer that contradicts itself is an error that says how."""
    document = json.loads(Opening(MANIFEST, MANIFEST.dump()).dump()) | members
    with pytest.raises(FormatError, match=reason):
        Opening.parse(json.dumps(document).encode())
