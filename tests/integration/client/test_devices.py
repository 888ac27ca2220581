"""Loading to a device by way of the pinned ring, on the device in plain memory that does everything late."""

from __future__ import annotations

import gc
import hashlib
import json
import struct
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hotstart
from hotstart.commands.pack import pack_file
from hotstart.devices.base import Device, Event
from hotstart.devices.host import HostDevice
from hotstart.devices.staging import SMALL_BYTES
from hotstart.model import Model
from hotstart.sources.base import SourceKind
from hotstart.wire.manifest import Manifest, Twin
from hotstart.wire.pieces import PieceHasher
from hotstart.wire.twin_forms import PLANES_SUFFIX
from tests.integration.client.conftest import Published, warm
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.integration.client.test_integrity import Flip
from tests.support.deadlines import DEADLINE_SECONDS, wait_until
from tests.support.processes import Proxy

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

WEIGHTS = "model.safetensors"
MEBIBYTE = 1024 * 1024
# Two slots of 8 MiB, so that 18 MiB of weights use each of them again.
SMALLEST: Any = {"ring_bytes": 16 * MEBIBYTE, "slot_bytes": 8 * MEBIBYTE}


@pytest.fixture(scope="session")
def bert(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """org/bert@1 with both of its twins."""
    version = published.version("org/bert@1")
    (file,) = [file for file in version.manifest.files if file.path == WEIGHTS]
    if any(twin.suffix == PLANES_SUFFIX for twin in file.twins):
        return version
    path = tmp_path_factory.mktemp("planes") / f"{WEIGHTS}{PLANES_SUFFIX}"
    packed = pack_file(published.weights("org/bert@1")[0], path, suffix=PLANES_SUFFIX, force=False)
    assert packed is not None
    content = path.read_bytes()
    digest = PieceHasher()
    digest.update(content)
    sha256, pieces = digest.finish()
    twin = Twin(PLANES_SUFFIX, len(content), sha256, file.origin, pieces, packed.table.dump())
    file = replace(file, twins=(*file.twins, twin))
    manifest = Manifest(
        version.manifest.model, version.manifest.version, version.manifest.published_at, (file,)
    )
    return Version(manifest, b"{}", {**version.content, file.path + PLANES_SUFFIX: content})


def small_device(polls: Callable[[int], int] = lambda event: 0) -> HostDevice:
    return HostDevice(polls=polls, **SMALLEST)


def bits(tensor: Any) -> bytes:
    return (
        bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""
    )


def assert_same(found: dict[str, Any], *files: Path) -> None:
    """Compare with the safetensors library's reading, bit by bit, and look at every address."""
    expected = {name: tensor for file in files for name, tensor in safetensors_torch.load_file(file).items()}
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].data_ptr() % 256 == 0, name
        assert bits(found[name]) == bits(tensor), name


@pytest.mark.parametrize("verify", [None, "none", "pieces", "full"])
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
@pytest.mark.parametrize("device", [small_device, HostDevice], ids=["two slots", "four slots"])
def test_every_way_gives_the_same_tensors(
    published: Published,
    bert: Version,
    verify: str | None,
    compression: str,
    device: Callable[[], HostDevice],
) -> None:
    """Whatever is checked and however it is sent, the tensors are those of the file, aligned to 256 bytes."""
    used = device()
    model = open_with(bert, FaultySource(bert))
    found = model.load("torch", used, verify=verify, compression=compression)
    assert_same(found, *published.weights("org/bert@1"))
    assert found.report.representations == ("identity" if compression == "none" else compression,)
    assert found.report.tensor_bytes == sum(tensor.nbytes for tensor in found.values())
    assert used.pinned_bytes == 0


@pytest.mark.parametrize(
    "polls",
    [lambda event: 3, lambda event: 7 * (event % 2), lambda event: max(0, 9 - event)],
    ids=["late", "by turns", "first ones last"],
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_slots_are_used_again_only_when_their_copies_are_done(
    published: Published, polls: Callable[[int], int], compression: str
) -> None:
    """However late events are done, and in whatever order that is seen, no slot is overwritten too early."""
    for reference in ("org/bert@1", "org/bert@2"):
        found = hotstart.load(
            reference, "torch", small_device(polls), origin=published.origin, compression=compression
        )
        assert_same(found, *published.weights(reference))


def test_small_tensors_share_copies_and_memory(published: Published) -> None:
    """Fewer copies are issued than there are tensors, and neighbours lie in one piece of memory."""
    device = HostDevice()
    found = hotstart.load("org/bert@1", "torch", device, origin=published.origin)
    small = [tensor for tensor in found.values() if 0 < tensor.nbytes < SMALL_BYTES]
    assert len({tensor.untyped_storage().data_ptr() for tensor in small}) < len(small)
    large = [tensor for tensor in found.values() if tensor.nbytes >= SMALL_BYTES]
    assert len({tensor.untyped_storage().data_ptr() for tensor in large}) == len(large)
    assert device.copies < len(found)


def test_every_dtype_is_the_same(published: Published) -> None:
    """All dtypes, packed and 8-bit ones, scalars and empty tensors included, are as in host memory."""
    expected = hotstart.load("org/odd@dtypes", "torch", origin=published.origin)
    found = hotstart.load("org/odd@dtypes", "torch", HostDevice(), origin=published.origin)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor), name
    raw = hotstart.load("org/odd@dtypes", "torch", HostDevice(), origin=published.origin, raw=True)
    assert {name: bits(tensor) for name, tensor in raw.items()} == {
        name: bits(tensor) for name, tensor in expected.items()
    }


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
@pytest.mark.parametrize("verify", [None, "none"])
def test_some_tensors_are_loaded_alone(
    published: Published, bert: Version, compression: str, verify: str | None
) -> None:
    """Named tensors are loaded, and little more than their bytes is fetched."""
    whole = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    names = ["logit_scale", "unused", "encoder.layer.2.attention.query.weight", "embeddings.position_ids"]
    model = open_with(bert, FaultySource(bert))
    found = model.load("torch", small_device(), tensors=names, compression=compression, verify=verify)
    assert {name: bits(tensor) for name, tensor in found.items()} == {
        name: bits(whole[name]) for name in names
    }
    assert sum(found.report.received_bytes.values()) < sum(tensor.nbytes for tensor in whole.values())
    for reference, some in (("org/bert@1", []), ("org/bert@2", ["logit_scale"]), ("org/bert@2", [])):
        found = hotstart.load(reference, "torch", HostDevice(), origin=published.origin, tensors=some)
        assert list(found) == some


def test_a_file_without_tensors(published: Published) -> None:
    """A Safetensors file that holds no tensors loads as an empty dict."""
    assert hotstart.load("org/odd@empty", "torch", HostDevice(), origin=published.origin) == {}


def rebuilt(bert: Version, content: bytes, *, header_length: int | None) -> Version:
    """Return a version whose weights are these bytes, adopted: without digests, and perhaps header length."""
    (file,) = [file for file in bert.manifest.files if file.path == WEIGHTS]
    file = replace(
        file,
        size=len(content),
        sha256=None,
        id=hashlib.sha256(content).hexdigest(),
        pieces=None,
        header_length=header_length,
        twins=(),
    )
    manifest = Manifest(bert.manifest.model, bert.manifest.version, bert.manifest.published_at, (file,))
    return Version(manifest, b"{}", {WEIGHTS: content})


def large_header() -> bytes:
    """Return a file whose header fills more slots than the smallest ring has."""
    header = {
        "x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "__metadata__": {"padding": "p" * (20 * MEBIBYTE)},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<fff", 1, 2, 3)


@pytest.mark.parametrize("tensors", [None, ["x"]])
@pytest.mark.parametrize("known", [True, False])
def test_a_header_larger_than_the_ring(bert: Version, tensors: list[str] | None, *, known: bool) -> None:
    """A header that no ring holds is read piece by piece, whether its length is known beforehand or not."""
    content = large_header()
    length = struct.unpack("<Q", content[:8])[0]
    version = rebuilt(bert, content, header_length=length if known else None)
    model = open_with(version, FaultySource(version))
    found = model.load("torch", small_device(), tensors=tensors)
    assert found["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"abc", "expected at least 8"),
        (b"", "expected at least 8"),
        (struct.pack("<Q", 1000) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"[]", "header"),
        (b"\xff" * 100, "is this a .safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(bert: Version, content: bytes, reason: str) -> None:
    """A malformed header is the same error as in host memory."""
    version = rebuilt(bert, content, header_length=None)
    for device in ("cpu", HostDevice()):
        with pytest.raises(hotstart.FormatError, match=reason):
            open_with(version, FaultySource(version)).load("torch", device)


def check(published: Published, model: Model, **options: Any) -> None:
    assert_same(
        model.load("torch", small_device(lambda event: event % 3), **options),
        *published.weights("org/bert@1"),
    )


@pytest.mark.parametrize("dies_after", [0, 9, 4 * MEBIBYTE + 1, 11_000_003])
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
@pytest.mark.parametrize(
    ("before", "after"), [(SourceKind.TCP, SourceKind.ORIGIN), (SourceKind.UNIX, SourceKind.PRESIGNED)]
)
def test_a_lost_source_is_replaced(
    published: Published,
    bert: Version,
    dies_after: int,
    compression: str,
    before: SourceKind,
    after: SourceKind,
) -> None:
    """Wherever a source dies, the next goes on, with frames, pieces or neither, and checks what it must."""
    first = FaultySource(bert, "first", before, dies_after=dies_after)
    second = FaultySource(bert, "second", after, lacks=(".zst", ".zsp"))
    model = open_with(bert, first, second)
    check(published, model, compression=compression)
    assert model.report.failovers
    if compression == "none":
        assert first.total + second.total == len(bert.content[WEIGHTS])


@pytest.mark.parametrize("at", [3, 100, 9_000_000])
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_damage_is_mended_before_it_is_copied(
    published: Published, bert: Version, compression: str, at: int
) -> None:
    """A piece or frame that arrives damaged is fetched again into its slot."""
    model = open_with(bert, FaultySource(bert, damage=Flip(1, at)))
    check(published, model, compression=compression)
    assert len(model.report.retries) == 1
    assert "is damaged" in model.report.retries[0]


def test_damage_everywhere_is_an_error(bert: Version) -> None:
    """If no source has the published bytes, no tensor of them is returned, and nothing stays pinned."""
    device = small_device()
    source = FaultySource(bert, damage=Flip(1000))
    with pytest.raises(hotstart.IntegrityError, match=r"piece 2 of model\.safetensors"):
        open_with(bert, source).load("torch", device, compression="none")
    wait_until("nothing is pinned", lambda: device.pinned_bytes == 0)


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_a_sha256_that_disagrees_gives_no_tensor(bert: Version, compression: str) -> None:
    """verify='full' delivers nothing before the sha256 of the whole was compared."""
    files = tuple(
        replace(file, sha256="0" * 64) if file.path == WEIGHTS else file for file in bert.manifest.files
    )
    manifest = Manifest(bert.manifest.model, bert.manifest.version, bert.manifest.published_at, files)
    lying = Version(manifest, b"{}", bert.content)
    model = open_with(lying, FaultySource(lying))
    tensors = model.stream("torch", small_device(), verify="full", compression=compression)
    with pytest.raises(hotstart.IntegrityError, match="sha256 000"):
        next(tensors)


@pytest.mark.parametrize("verify", [None, "full"])
def test_what_is_mapped_goes_through_the_ring(proxy: Proxy, published: Published, verify: str | None) -> None:
    """Weights on a shared volume are copied from their mapping, and no byte of them is received."""
    model = hotstart.open("org/bert@2", proxy=proxy.unix_url, shared_dir=str(proxy.store))
    warm(proxy, model)
    check_2 = model.load("torch", small_device(), verify=verify)
    assert_same(check_2, *published.weights("org/bert@2"))
    assert check_2.report.representations == ("mapped",)
    assert not check_2.report.received_bytes
    some = model.load("torch", HostDevice(), tensors=["logit_scale", "unused"])
    assert bits(some["logit_scale"]) == bits(check_2["logit_scale"])


def test_tensors_are_streamed_as_they_become_whole(published: Published) -> None:
    """Every tensor of a stream may be used at once, though later copies are still to come."""
    expected = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    names = []
    for name, tensor in hotstart.stream("org/bert@1", "torch", small_device(), origin=published.origin):
        assert bits(tensor) == bits(expected[name]), name
        names.append(name)
    assert sorted(names) == sorted(expected)


def test_a_stream_that_is_closed_lets_go_of_everything(bert: Version) -> None:
    """Closing a stream early ends its threads and unpins the ring."""
    before = set(threading.enumerate())
    device = small_device(lambda event: 1)
    stream = open_with(bert, FaultySource(bert, cuts_every=3 * MEBIBYTE)).stream("torch", device)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert device.pinned_bytes == 0
    wait_until("its threads have ended", lambda: not set(threading.enumerate()) - before)


def test_a_prefetch_ends_on_the_device(published: Published) -> None:
    """prefetch takes the same arguments, and its result may be used at once."""
    loading = hotstart.prefetch("org/bert@1", "torch", small_device(), origin=published.origin)
    assert_same(loading.result(), *published.weights("org/bert@1"))


@pytest.mark.parametrize("device", ["cpu", "device"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16", "float64"])
def test_floats_are_cast(published: Published, device: str, dtype: object) -> None:
    """dtype casts floats as torch does, and leaves integers alone."""
    expected = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    kind = getattr(torch, str(dtype).removeprefix("torch."))
    found = hotstart.load(
        "org/bert@1",
        "torch",
        device if device == "cpu" else small_device(lambda event: 2),
        dtype=dtype,
        origin=published.origin,
    )
    for name, tensor in expected.items():
        cast = tensor.to(kind) if tensor.is_floating_point() else tensor
        assert found[name].dtype == cast.dtype
        assert bits(found[name]) == bits(cast), name


def test_narrow_floats_are_not_cast(published: Published) -> None:
    """Floats of 8 bits and fewer are quantized, and stay what they are."""
    found = hotstart.load("org/odd@dtypes", "torch", HostDevice(), dtype="float32", origin=published.origin)
    assert found["F8_E4M3.matrix"].dtype == torch.float8_e4m3fn
    assert found["BF16.matrix"].dtype == found["F64.scalar"].dtype == torch.float32


class Failing(HostDevice):
    """Fails as torch does when a GPU's memory is full, after some allocations."""

    left = 3

    def empty(self, size: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        return super().empty(size)

    def pin(self, memory: memoryview) -> Callable[[], None]:
        unpin = super().pin(memory)

        def checked() -> None:
            assert not self._queue, "memory is unpinned while it is copied from"
            unpin()

        return checked


def test_a_device_that_fails_is_one_error(published: Published) -> None:
    """What torch raises comes as DeviceFailed with the cause, and nothing stays pinned or running."""
    device: Device = Failing(**SMALLEST)
    with pytest.raises(hotstart.DeviceFailed, match="loading to host failed: CUDA out of memory") as caught:
        hotstart.load("org/bert@1", "torch", device, origin=published.origin)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert isinstance(device, HostDevice)
    wait_until("nothing is pinned", lambda: device.pinned_bytes == 0)


class Lost(HostDevice):
    """Has nothing more to say once a copy was issued."""

    def record(self) -> Event:
        if self.copies:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().record()


def test_a_device_that_is_lost_is_one_error(published: Published) -> None:
    """Where not even the end of the copies can be waited for, the ring is unpinned all the same."""
    device = Lost(**SMALLEST)
    with pytest.raises(hotstart.DeviceFailed, match="unspecified launch failure"):
        hotstart.load("org/bert@1", "torch", device, origin=published.origin)
    wait_until("nothing is pinned", lambda: device.pinned_bytes == 0)


class Watched(HostDevice):
    """Knows whether the memory that it pinned is still there."""

    def pin(self, memory: memoryview) -> Callable[[], None]:
        self.ring = weakref.ref(memory.obj)
        return super().pin(memory)


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_ring_goes_with_its_load(bert: Version, *, is_whole: bool) -> None:
    """The ring's memory is given back when its load ends, without waiting for the garbage collector."""
    device = Watched(**SMALLEST)
    source = FaultySource(bert)
    model = open_with(bert, source)
    gc.collect()
    gc.disable()
    try:
        stream = model.stream("torch", device, compression="none")
        tensors = dict(stream) if is_whole else dict([next(stream)])
        wait_until("all bytes to be sent", lambda: source.total == len(bert.content[WEIGHTS]))
        stream.close()  # type: ignore[attr-defined]
        wait_until("the ring to go", lambda: device.ring() is None, DEADLINE_SECONDS / 6)
    finally:
        gc.enable()
    assert tensors


def test_all_sources_lost(bert: Version) -> None:
    """When every source is lost, the error lists them, as in host memory."""
    model = open_with(bert, FaultySource(bert, "only", dies_after=9_000_000))
    with pytest.raises(hotstart.AllSourcesFailed, match="only: receiving: it died"):
        model.load("torch", small_device(), compression="none")
    with pytest.raises(hotstart.AllSourcesFailed):
        model.load("torch", small_device(), compression="none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", torch.device("cuda:0"), "pinned"])
def test_without_cuda_the_error_says_what_to_do(published: Published, device: object) -> None:
    """A GPU that is not there is an InvalidOption that says what was found."""
    name = "cuda:0" if str(device) == "cuda" else str(device)
    with pytest.raises(hotstart.InvalidOption, match=rf"device='{name}': expected 'cpu', since torch"):
        hotstart.load("org/bert@1", "torch", device, origin=published.origin)


@pytest.mark.parametrize("device", ["cuda:0", "pinned", "cuda"])
def test_numpy_has_no_device(published: Published, device: str) -> None:
    """numpy with a GPU is refused at once, with what to use instead."""
    with pytest.raises(hotstart.InvalidOption, match="or framework='torch'"):
        hotstart.load("org/bert@1", "numpy", device, origin=published.origin)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "mps", "", None, 0])
def test_other_devices_are_refused(published: Published, device: object) -> None:
    """What is no device is an error that lists what could have been given."""
    with pytest.raises(hotstart.InvalidOption, match="'cpu', 'pinned', 'cuda' or 'cuda:0'"):
        hotstart.load("org/bert@1", "torch", device, origin=published.origin)


@pytest.mark.parametrize(
    "options",
    [
        {"framework": "numpy", "dtype": "float16"},
        {"framework": "torch", "dtype": "int8"},
        {"framework": "torch", "dtype": torch.int64},
        {"framework": "torch", "dtype": "float16", "raw": True},
        {"framework": "torch", "dtype": "float16", "device": "pinned"},
    ],
)
def test_casts_that_cannot_be(published: Published, options: dict[str, Any]) -> None:
    """A cast that is none is refused before anything is fetched."""
    with pytest.raises(hotstart.InvalidOption, match="dtype="):
        hotstart.load("org/bert@1", origin=published.origin, **options)


@pytest.mark.parametrize(
    "sizes",
    [
        {"slot_bytes": 4 * MEBIBYTE},
        {"slot_bytes": 24 * MEBIBYTE},
        {"ring_bytes": 16 * MEBIBYTE},
        {"ring_bytes": 96 * MEBIBYTE},
    ],
)
def test_sizes_of_the_ring_are_powers_of_two(sizes: dict[str, Any]) -> None:
    """Slots of less than two pieces, rings of less than two slots and odd sizes are refused."""
    with pytest.raises(hotstart.InvalidOption, match="a power of two of at least"):
        HostDevice(**sizes)
