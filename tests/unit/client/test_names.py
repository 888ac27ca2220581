"""What is a path and what a reference; where downloads go."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart.downloads import default_folder
from hotstart.reader import is_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True),
        ("weights/unet/model.safetensors", True),
        ("/srv/model.safetensors", True),
        ("/srv/x", True),
        ("./runs@3/model.safetensors", True),
        ("../model", True),
        ("~/model.safetensors", True),
        ("C:\\models\\x.safetensors", True),
        (Path("org/bert"), True),
        ("org/bert", False),
        ("bert", False),
        ("org/bert@7", False),
        ("org/bert@7/model.safetensors", False),
        ("org/bert@7/unet/x.safetensors", False),
    ],
)
def test_paths_and_references_are_told_apart_by_their_form(name: str | Path, expected: bool) -> None:
    """No file system is asked, so the same name means the same everywhere."""
    assert is_path(name) is expected


def test_versions_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is XDG's; a relative or empty setting is ignored, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_folder("org/bert", "7") == Path("/var/cache/me/hotstart/org/bert/7")
    for setting in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
        assert default_folder("org/bert", "7") == Path.home() / ".cache/hotstart/org/bert/7"
