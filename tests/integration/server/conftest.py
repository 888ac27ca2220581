"""One published origin and one proxy before it, shared by the tests that change neither."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.support.load import check_nothing_is_taken
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy

# More than the kernel's buffers for one connection hold, so that a reader who stops is felt by the server.
BIG_BYTES = 24 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A directory origin.

    Attributes:
        root: the origin's folder.
        folders: what was published, by version of ``org/bert``; ``prod`` means the last.
    """

    root: Path
    folders: dict[str, Path]

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def manifest(self, version: str) -> bytes:
        return (self.root / "org/bert" / version / ".hotstart/manifest.json").read_bytes()


async def _publish(root: Path, folders: dict[str, Path]) -> None:
    async with DirectoryOrigin(root) as origin:
        for version, folder in folders.items():
            await publish(origin, folder, Reference("org/bert", version), alias="prod")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Versions 6 and 7 of org/bert, the second with a big file, an empty one, and names that need escapes."""
    base = tmp_path_factory.mktemp("published")
    folders = {"6": make_model(base / "6", seed=6, mebibytes=1), "7": make_model(base / "7", mebibytes=6)}
    (folders["7"] / "big.bin").write_bytes(random.Random(7).randbytes(BIG_BYTES))
    (folders["7"] / "empty.txt").write_bytes(b"")
    (folders["7"] / "größe & co.txt").write_text("escaped")
    root = base / "origin"
    root.mkdir()
    asyncio.run(_publish(root, folders))
    return Published(root, folders)


@pytest.fixture
def own_origin(published: Published, tmp_path: Path) -> Published:
    """Version 7 in an origin that a test may damage."""
    root = tmp_path / "origin"
    root.mkdir()
    folders = {"7": published.folders["7"]}
    asyncio.run(_publish(root, folders))
    return Published(root, folders)


@pytest.fixture
def store(processes: Processes) -> Path:
    """A store beside the sockets, whose path is short enough for its admin socket."""
    return processes._sockets / "store"


@pytest.fixture(autouse=True)
def nothing_stays_taken(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the shared proxy has given back all that it took for it."""
    yield
    if "proxy" in request.fixturenames:
        check_nothing_is_taken(request.getfixturevalue("proxy"))


@pytest.fixture(scope="session")
def proxy(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that tests only read from."""
    folder = tmp_path_factory.mktemp("proxy")
    with Processes(folder / "processes") as processes:
        yield processes.serve(published.url, folder / "store")
