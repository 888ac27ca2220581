"""Byte planes on their way: frames that come before the header, planes that are none, real weights."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy
import pytest
import zstandard
from safetensors.numpy import load_file, save_file

import hotstart
from hotstart.engine.planning import Compression
from hotstart.sources.base import SourceError, SourceKind
from hotstart.wire.manifest import Manifest
from hotstart.wire.planes import dump_prefix
from hotstart.wire.references import Reference
from hotstart.wire.seek_table import SeekTable
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from hotstart_proxy.publishing.twin_uploads import TwinChoice
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.models import assert_same_tensors, minilm_folder
from tests.support.processes import Processes

WEIGHTS = "model.safetensors"
MIB = 1 << 20


def publish_planes(folder: Path, root: Path, name: str) -> None:
    """Publish a folder with byte planes and no other twins."""

    async def run() -> None:
        async with DirectoryOrigin(root) as origin:
            await publish(origin, folder, Reference(*name.split("@")), twins=TwinChoice(frozenset({".zsp"})))

    root.mkdir(exist_ok=True)
    asyncio.run(run())


class LateHeader:
    """Lets other frames arrive before frame 0, which then comes, or is lost.

    Attributes:
        others: bytes that arrived meanwhile.
    """

    def __init__(self, wanted_bytes: int, *, lost: bool = False) -> None:
        self.others = 0
        self._wanted_bytes = wanted_bytes
        self._lost = lost
        self._lock = threading.Lock()
        self._arrived = threading.Event()

    def __call__(self, path: str, start: int, data: bytes) -> bytes:
        if not path.endswith(".zsp"):
            return data
        if start == 0:
            assert self._arrived.wait(DEADLINE_SECONDS), "no other frame came before the first"
            if self._lost:
                raise SourceError("first", "receiving", "it died", transient=False)
            return data
        with self._lock:
            self.others += len(data)
            if self.others >= self._wanted_bytes:
                self._arrived.set()
        return data


def test_frames_wait_for_the_header(published: Published, bert: Version) -> None:
    """Frames that are there before the header are put into their place once it is."""
    late = LateHeader(4 * MIB)
    source = FaultySource(bert, damage=late)
    assert_same_tensors(
        open_with(bert, source).load(compression="planes"), published.weights("org/bert@1")[0]
    )
    assert late.others >= 4 * MIB


@pytest.mark.parametrize("verify", [None, "none"])
def test_frames_that_wait_go_on_as_identity(published: Published, bert: Version, verify: str | None) -> None:
    """If the header is lost with its source, what the frames that wait for it hold comes from the next."""
    first = FaultySource(bert, "first", damage=LateHeader(4 * MIB, lost=True))
    second = FaultySource(bert, "second", SourceKind.ORIGIN, lacks=(".zsp",))
    found = open_with(bert, first, second).load(compression="planes", verify=verify)
    assert_same_tensors(found, published.weights("org/bert@1")[0])


@pytest.fixture(scope="module")
def long_header(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Version]:
    """A file whose header ends in the middle of its second piece, and the version that it is of."""
    base = tmp_path_factory.mktemp("long")
    folder = base / "model"
    folder.mkdir()
    noise = numpy.random.default_rng(1)
    tensors = {name: noise.normal(size=2 * MIB).astype(numpy.float32) for name in "abc"}
    save_file(tensors, folder / WEIGHTS, {"notes": "x" * (5 * MIB)})
    publish_planes(folder, base / "origin", "org/long@1")
    return folder / WEIGHTS, Version.read(base / "origin", "org/long", "1")


def test_a_lost_header_in_a_piece_with_tensors(long_header: tuple[Path, Version]) -> None:
    """Nobody waits for a header whose piece can only be checked with the bytes of whoever waits."""
    file, version = long_header
    first = FaultySource(version, "first", damage=LateHeader(2 * MIB, lost=True))
    second = FaultySource(version, "second", SourceKind.ORIGIN, lacks=(".zsp",))
    found = open_with(version, first, second).load(compression="planes", verify="pieces")
    assert_same_tensors(found, file)


# What is in frame 0 instead of the prefix, and the error.
PREFIXES = {
    "another magic": (b"HSPLANE2", 0, "begin b'HSPLANE2': expected b'HSPLANE1'"),
    "another length": (b"\0", 8, "claim a header of"),
    "another crc32": (b"\0\0\0\0", 16, "expected 00000000"),
}


def with_frame_0(version: Version, content: bytes) -> Version:
    """Return the version with another, sound frame 0 in its byte planes, and a seek table that fits."""
    file = version.manifest.file(WEIGHTS)
    assert file is not None
    twin = next(twin for twin in file.twins if twin.suffix == ".zsp")
    data = version.content[f"{WEIGHTS}.zsp"]
    table = SeekTable.parse(twin.seek_table)
    first, *others = table.entries
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    sizes = [(len(content), len(frame))] + [(len(entry.content), len(entry.stored)) for entry in others]
    dumped = SeekTable.of(sizes).dump()
    data = frame + data[first.stored.stop : table.stored_bytes] + dumped
    changed = replace(file, twins=(replace(twin, size=len(data), seek_table=dumped),))
    manifest = version.manifest
    files = tuple(changed if other.path == WEIGHTS else other for other in manifest.files)
    return Version(
        Manifest(manifest.model, manifest.version, manifest.published_at, files),
        b"{}",
        {**version.content, f"{WEIGHTS}.zsp": data},
    )


def frame_0_of(version: Version) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(version.content[f"{WEIGHTS}.zsp"])
    return bytes(reader.read(20 + len(version.content[WEIGHTS])))


@pytest.mark.parametrize("name", PREFIXES)
def test_planes_that_are_none(bert: Version, name: str) -> None:
    """A twin whose frame 0 is sound and says something else is damage that names the frame."""
    inserted, at, message = PREFIXES[name]
    content = frame_0_of(bert)
    hostile = with_frame_0(bert, content[:at] + inserted + content[at + len(inserted) :])
    with pytest.raises(
        hotstart.IntegrityError, match=r"the frame at byte 0 of model\.safetensors\.zsp"
    ) as caught:
        open_with(hostile, FaultySource(hostile)).load(compression="planes")
    assert message in str(caught.value)


def test_planes_of_another_header(bert: Version) -> None:
    """Frames that do not fit the header in their own twin are refused, and no tensor is returned."""
    content = frame_0_of(bert)
    # A tensor of four bytes an element, said to have twice as many of two.
    other = content[20:].replace(b'"F32","shape":[256]', b'"F16","shape":[512]', 1)
    assert len(other) == len(content) - 20
    hostile = with_frame_0(bert, dump_prefix(other) + other)
    with pytest.raises(hotstart.FormatError, match="holds elements of 2 and 4 bytes: expected one width"):
        open_with(hostile, FaultySource(hostile)).load(compression="planes")


def test_lazy_reading_of_planes(bert: Version, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a slice names are put together from planes too."""
    monkeypatch.setattr(Compression, "suffixes", lambda self, kind, is_local: (".zsp",))
    source = FaultySource(bert)
    expected = load_file(published.weights("org/bert@1")[0])["embeddings.word_embeddings.weight"]
    with hotstart.safe_open(open_with(bert, source)) as weights:
        rows = weights.get_slice("embeddings.word_embeddings.weight")
        assert (rows[3:70] == expected[3:70]).all()
        assert (rows[5000:9000:7] == expected[5000:9000:7]).all()
    assert WEIGHTS not in source.sent


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def minilm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The real weights, as they are or cast, and the origin at which they are published with planes alone."""
    base = tmp_path_factory.mktemp("minilm")
    tensors = load_file(minilm_folder() / WEIGHTS)
    if request.param == "bfloat16":
        tensors = {
            name: tensor.astype(ml_dtypes.bfloat16) if tensor.dtype == numpy.float32 else tensor
            for name, tensor in tensors.items()
        }
    (base / "model").mkdir()
    save_file(tensors, base / "model" / WEIGHTS)
    publish_planes(base / "model", base / "origin", "org/minilm@1")
    return base / "model" / WEIGHTS, f"file://{base / 'origin'}"


def test_real_weights_through_the_proxy(
    minilm: tuple[Path, str], processes: Processes, tmp_path: Path
) -> None:
    """Real weights arrive through an installed proxy as planes, smaller, and equal bit for bit."""
    file, origin = minilm
    proxy = processes.serve(origin, tmp_path / "store")
    for url in (proxy.url, proxy.unix_url):
        found = hotstart.load("org/minilm@1", proxy=url, compression="planes")
        assert_same_tensors(found, file)
        assert found.report.representations == ("planes",)
        assert found.report.verification == "frames"
        (received,) = found.report.received_bytes.values()
        assert received < 0.86 * found.report.tensor_bytes
    whole = hotstart.load("org/minilm@1", proxy=proxy.url, compression="planes", framework="torch", raw=True)
    assert {name: bytes(tensor.numpy()) for name, tensor in whole.items()} == {
        name: tensor.tobytes() for name, tensor in load_file(file).items()
    }
    names = sorted(whole)[::20]
    some = hotstart.load("org/minilm@1", proxy=proxy.url, compression="planes", tensors=names, raw=True)
    assert {name: array.tobytes() for name, array in some.items()} == {
        name: bytes(whole[name].numpy()) for name in names
    }
