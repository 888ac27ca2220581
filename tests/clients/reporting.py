"""What the scripts of clients print, by the standard library alone: they run in environments of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["files_below", "report", "split_reference"]


def split_reference(text: str) -> tuple[str, str | None]:
    """Split ``org/bert@7`` into the model and the version or alias, None where there is none."""
    model, _, selector = text.partition("@")
    return model, selector or None


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder and below it, but for hidden folders, by path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".")}


def report(client: str, version: str, files: Mapping[str, bytes], **more: object) -> None:
    """Print one line of JSON about what a client has read.

    Args:
        client: its name.
        version: its own.
        files: what it read, by path.
        more: further members.
    """
    sha256s = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    line = {
        "client": client,
        "version": version,
        "files": len(files),
        "bytes": sum(map(len, files.values())),
        "sha256s": sha256s,
        **more,
    }
    print(json.dumps(line), flush=True)
