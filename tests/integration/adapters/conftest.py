"""An origin to publish to, and versions that follow each other under one alias."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish


@dataclass(frozen=True, slots=True)
class Origin:
    """A directory that is published to.

    Attributes:
        root: the directory.
    """

    root: Path

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def publish(self, folder: Path, reference: str, alias: str | None = "prod") -> None:
        """Publish a folder as a version, and let the alias mean it."""
        asyncio.run(self._publish(folder, reference, alias))

    async def _publish(self, folder: Path, reference: str, alias: str | None) -> None:
        model, _, version = reference.partition("@")
        async with DirectoryOrigin(self.root) as origin:
            await publish(origin, folder, Reference(model, version), alias=alias)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """An empty one."""
    root = tmp_path / "origin"
    root.mkdir()
    return Origin(root)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings out."""
    for name in ("PROXY", "TOKEN", "SHARED_DIR", "ORIGIN", "FALLBACK"):
        monkeypatch.delenv(f"HOTSTART_{name}", raising=False)
