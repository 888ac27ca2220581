"""Origins with something published in them, and the client's environment for reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hotstart.sources.environment import Environment
from hotstart.sources.origin import Origin
from hotstart.sources.origins import open_origin
from hotstart.wire.adoption import Layout
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.urls import open_origin as open_proxy_origin
from hotstart_proxy.publishing.aliases import move_aliases
from hotstart_proxy.publishing.publisher import now_ms, publish


@dataclass(frozen=True, slots=True)
class Tree:
    """An origin's URL, and the AWS variables that reach it."""

    url: str
    variables: Mapping[str, str]

    def environment(self, **settings: str) -> Environment:
        """Return the client's environment, with this origin unless another is given."""
        names = {f"HOTSTART_{name.upper()}": value for name, value in settings.items()}
        return Environment.from_environ({"HOTSTART_ORIGIN": self.url, **self.variables, **names})

    def origin(self) -> Origin:
        """Return the client's reader of it."""
        return open_origin(self.environment())

    def publish(self, folder: Path, reference: str, alias: str | None = None) -> None:
        """Publish a folder as the command does."""

        async def run() -> None:
            async with open_proxy_origin(self.url, self.variables) as origin:
                await publish(origin, folder, parse_reference(reference), alias=alias)

        asyncio.run(run())

    def move_alias(self, model: str, alias: str, version: str) -> None:
        """Move an alias as the command does."""

        async def run() -> None:
            async with open_proxy_origin(self.url, self.variables) as origin:
                await move_aliases(origin, model, {alias: version}, Layout(), now_ms())

        asyncio.run(run())


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files, by relative path, and return their folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder
