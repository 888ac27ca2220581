"""The publisher's claim."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.claim import Claim, ClaimedFile
from hotstart.wire.errors import FormatError

CLAIM = Claim(
    "org/bert",
    "7",
    (ClaimedFile("1_Pooling/config.json", 2, "ab" * 32), ClaimedFile("model.safetensors", 10, "cd" * 32)),
)


def test_bytes() -> None:
    """A claim has these bytes, so that the same files always make the same claim."""
    assert CLAIM.dump() == (
        b'{"format":1,"model":"org/bert","version":"7","files":['
        b'{"path":"1_Pooling/config.json","size":2,"sha256":"' + b"ab" * 32 + b'"},'
        b'{"path":"model.safetensors","size":10,"sha256":"' + b"cd" * 32 + b'"}]}'
    )
    assert Claim.parse(CLAIM.dump()) == CLAIM


def test_unknown_members_are_ignored() -> None:
    """A later publisher may say more."""
    document = json.loads(CLAIM.dump()) | {"new": 1}
    assert Claim.parse(json.dumps(document).encode()) == CLAIM


def test_differences() -> None:
    """What differs is said file by file, by rising path."""
    other = Claim(
        "org/bert",
        "7",
        (ClaimedFile("a", 1, "00" * 32), ClaimedFile("model.safetensors", 11, "cd" * 32)),
    )
    assert CLAIM.differences(CLAIM) == ()
    assert CLAIM.differences(other) == (
        "1_Pooling/config.json is missing",
        "a is new",
        "model.safetensors has 11 bytes, not 10",
    )
    same_size = Claim("org/bert", "7", (CLAIM.files[0], ClaimedFile("model.safetensors", 10, "ef" * 32)))
    assert CLAIM.differences(same_size) == ("model.safetensors has other bytes",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"version": "latest"}, "version"),
        ({"files": [{"path": "../x", "size": 1, "sha256": "ab" * 32}]}, "path"),
        ({"files": [{"path": "x", "size": -1, "sha256": "ab" * 32}]}, "size"),
        ({"files": [{"path": "x", "size": 1, "sha256": "AB" * 32}]}, "sha256"),
        ({"files": [{"path": "x", "size": 1, "sha256": "ab" * 32}] * 2}, "twice"),
    ],
)
def test_malformed(change: dict[str, object], reason: str) -> None:
    """What is no claim of format 1 is the one documented error."""
    document = json.loads(CLAIM.dump()) | change
    with pytest.raises(FormatError, match=reason):
        Claim.parse(json.dumps(document).encode())
