"""Media types by name."""

from __future__ import annotations

import pytest

from hotstart.wire.media_types import media_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("config.json", "application/json"),
        ("a/b/CONFIG.JSON", "application/json"),
        ("README.md", "text/markdown; charset=utf-8"),
        ("model.safetensors", "application/octet-stream"),
        ("model.safetensors.zst", "application/zstd"),
        ("model.safetensors.index.json", "application/json"),
        ("LICENSE", "application/octet-stream"),
        ("json", "application/octet-stream"),
        (".json", "application/octet-stream"),
        ("folder.json/file", "application/octet-stream"),
        ("file.", "application/octet-stream"),
    ],
)
def test_media_type(path: str, expected: str) -> None:
    """The suffix of a file's name decides, whatever the system's own table says."""
    assert media_type(path) == expected
