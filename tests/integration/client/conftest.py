"""A directory origin with versions of every shape, published once, and the real proxy before it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from hotstart.model import Model
from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.client.faulty import Version
from tests.support.deadlines import wait_until
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy
from tests.support.safetensors_library import WRITABLE, LibraryTensor, write_with_library

BITS_OF_LIBRARY = {"F4": 4, "BF16": 16, "F16": 16, "I16": 16, "U16": 16, "C64": 64}


@dataclass(frozen=True, slots=True)
class Published:
    """What the tests of the client read.

    ``org/bert``: ``1`` plain, ``2`` in three shards (also ``prod``).
    ``org/odd``: ``dtypes`` every dtype that the library writes, ``empty`` no tensors, ``none`` no weights,
    ``many`` two files at the root and one in a folder.
    """

    root: Path
    folders: dict[str, Path]

    @property
    def origin(self) -> str:
        return f"file://{self.root}"

    def version(self, reference: str) -> Version:
        model, _, version = reference.partition("@")
        return Version.read(self.root, model, version)

    def weights(self, reference: str) -> list[Path]:
        return sorted(self.folders[reference].glob("*.safetensors"))


def dtypes_file() -> bytes:
    """Return a file with a matrix, an empty tensor and, where that is possible, a scalar of every dtype."""
    noise = numpy.random.default_rng(7)
    tensors: dict[str, LibraryTensor] = {}
    for dtype in WRITABLE:
        bits = BITS_OF_LIBRARY.get(dtype) or _bits(dtype)
        data = noise.integers(0, 2 if dtype == "BOOL" else 256, 6 * 8 * bits // 8, dtype=numpy.uint8)
        tensors[f"{dtype}.matrix"] = LibraryTensor(dtype, (6, 8), data.tobytes())
        tensors[f"{dtype}.empty"] = LibraryTensor(dtype, (0, 8), b"")
        if bits >= 8:
            tensors[f"{dtype}.scalar"] = LibraryTensor(dtype, (), data.tobytes()[: bits // 8])
    return write_with_library(tensors, {"format": "pt"})


def _bits(dtype: str) -> int:
    digits = "".join(character for character in dtype.split("_")[0] if character.isdigit())
    return int(digits) if digits else 8


def _make(base: Path) -> dict[str, Path]:
    folders = {
        "org/bert@1": make_model(base / "bert1", seed=1, mebibytes=18),
        "org/bert@2": make_model(base / "bert2", seed=2, mebibytes=18, shards=3),
    }
    for name in ("dtypes", "empty", "none", "many"):
        folder = folders[f"org/odd@{name}"] = base / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
    (folders["org/odd@dtypes"] / "model.safetensors").write_bytes(dtypes_file())
    save_file({}, folders["org/odd@empty"] / "model.safetensors")
    (folders["org/odd@none"] / "empty.txt").touch()
    many = folders["org/odd@many"]
    (many / "unet").mkdir()
    for number, path in enumerate(("a.safetensors", "b.safetensors", "unet/x.safetensors")):
        save_file({"t": numpy.arange(number + 3, dtype=numpy.float32)}, many / path)
    return folders


async def _publish(root: Path, folders: dict[str, Path]) -> None:
    async with DirectoryOrigin(root) as origin:
        for name, folder in folders.items():
            model, _, version = name.partition("@")
            alias = "prod" if name == "org/bert@2" else None
            await publish(origin, folder, Reference(model, version), alias=alias)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    base = tmp_path_factory.mktemp("client")
    folders = _make(base)
    root = base / "origin"
    root.mkdir()
    asyncio.run(_publish(root, folders))
    return Published(root, folders)


@pytest.fixture(scope="session")
def bert(published: Published) -> Version:
    """org/bert@1, as a source for sources that fail."""
    return published.version("org/bert@1")


@pytest.fixture
def proxy(processes: Processes, published: Published, tmp_path: Path) -> Proxy:
    """The real proxy, with an empty store."""
    return processes.serve(published.origin, tmp_path / "store")


def warm(proxy: Proxy, model: Model) -> None:
    """Fill the proxy's store with a version's weights, and wait until the blobs are committed."""
    model.load(compression="none")
    for file in model.selection().files:
        blob = proxy.store / "blobs" / file.id[:2] / file.id
        wait_until(f"the blob of {file.path}", blob.exists)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings out."""
    for name in ("PROXY", "TOKEN", "SHARED_DIR", "ORIGIN", "FALLBACK"):
        monkeypatch.delenv(f"HOTSTART_{name}", raising=False)
