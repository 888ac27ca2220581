"""The calls to CUDA, on a real GPU: run by ``make bench-gpu``, and by no other target."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hotstart
from benchmarks.harness.publish import REFERENCE, Proxy, served
from benchmarks.harness.weights import tiled
from hotstart.devices.cuda import CudaDevice

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

MEBIBYTE = 1024 * 1024
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def weights() -> Path:
    return tiled(96 * MEBIBYTE, "bf16")


@pytest.fixture(scope="module")
def proxy(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with served(weights, tmp_path_factory.mktemp("gpu") / "served") as running:
        yield running


def assert_same(found: dict[str, Any], weights: Path, dtype: Any = None) -> None:
    """Compare with the library's tensors in host memory, bit by bit."""
    expected = safetensors_torch.load_file(weights)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        assert found[name].device == torch.device(DEVICE)
        assert found[name].data_ptr() % 256 == 0
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].cpu(), tensor), name


@pytest.mark.parametrize("way", ["shared", "unix", "tcp"])
@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
def test_tensors_arrive(proxy: Proxy, weights: Path, way: str, compression: str) -> None:
    """Every way to a GPU gives the tensors of the file."""
    address = proxy.url if way == "tcp" else proxy.unix_url
    shared_dir = str(proxy.store) if way == "shared" else ""
    found = hotstart.load(
        REFERENCE, "torch", DEVICE, proxy=address, shared_dir=shared_dir, compression=compression
    )
    assert_same(found, weights)


@pytest.mark.parametrize(
    "name", ["cuda", torch.device(DEVICE), CudaDevice(0, ring_bytes=16 * MEBIBYTE, slot_bytes=8 * MEBIBYTE)]
)
def test_names_of_the_device(proxy: Proxy, weights: Path, name: object) -> None:
    """A GPU may be named as torch names it, or given with a ring of another size."""
    assert_same(hotstart.load(REFERENCE, "torch", name, proxy=proxy.unix_url), weights)


def test_casts_are_made_on_the_gpu(proxy: Proxy, weights: Path) -> None:
    """A cast gives the bits that torch gives."""
    found = hotstart.load(REFERENCE, "torch", DEVICE, dtype="float32", proxy=proxy.unix_url)
    assert_same(found, weights, torch.float32)


def test_streamed_tensors_may_be_used_at_once(proxy: Proxy, weights: Path) -> None:
    """What the caller's stream does with a tensor comes after its copy, on whatever stream."""
    expected = safetensors_torch.load_file(weights)
    for stream in (torch.cuda.default_stream(0), torch.cuda.Stream(0)):
        with torch.cuda.stream(stream):
            doubled = {
                name: tensor * 2
                for name, tensor in hotstart.stream(REFERENCE, "torch", DEVICE, proxy=proxy.unix_url)
            }
        stream.synchronize()
        for name, tensor in expected.items():
            assert torch.equal(doubled[name].cpu(), tensor * 2), name


def test_dropped_memory_is_used_again(proxy: Proxy) -> None:
    """Loading and dropping again and again takes no more memory of the GPU than once."""
    torch.cuda.empty_cache()
    peaks = []
    for _ in range(5):
        torch.cuda.reset_peak_memory_stats(0)
        tensors = hotstart.load(REFERENCE, "torch", DEVICE, proxy=proxy.unix_url)
        torch.cuda.synchronize()
        del tensors
        gc.collect()
        peaks.append(torch.cuda.max_memory_reserved(0))
    assert peaks[-1] <= peaks[0] * 1.1


def test_pinned_tensors_are_pinned(proxy: Proxy, weights: Path) -> None:
    """device="pinned" gives host memory that CUDA knows as pinned, and copies from at once."""
    found = hotstart.load(REFERENCE, "torch", "pinned", proxy=proxy.unix_url)
    for name, tensor in safetensors_torch.load_file(weights).items():
        assert found[name].is_pinned(), name
        assert torch.equal(found[name].to(DEVICE, non_blocking=True).cpu(), tensor), name
    del found
    gc.collect()
    again = hotstart.load(REFERENCE, "torch", "pinned", proxy=proxy.unix_url, shared_dir=str(proxy.store))
    assert all(tensor.is_pinned() for tensor in again.values() if tensor.numel())


@pytest.mark.parametrize("start", ["meta", DEVICE])
def test_a_module_is_loaded(proxy: Proxy, weights: Path, start: str) -> None:
    """A module on the GPU is overwritten there, and one on the meta device gets its tensors there."""
    expected = safetensors_torch.load_file(weights)
    module: Any = torch.nn.Module()
    for name, tensor in expected.items():
        owner = module
        *path, last = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(last, torch.zeros(tensor.shape, dtype=tensor.dtype, device=start))
    hotstart.load_into(module, REFERENCE, DEVICE, proxy=proxy.unix_url)
    for name, tensor in expected.items():
        found = module.get_buffer(name)
        assert found.device == torch.device(DEVICE)
        assert torch.equal(found.cpu(), tensor), name


def test_a_gpu_that_is_not_there_is_named(proxy: Proxy) -> None:
    """An index beyond the GPUs that there are is an error that lists those."""
    with pytest.raises(hotstart.InvalidOption, match="device='cuda:99': expected one that is here: cuda:0"):
        hotstart.load(REFERENCE, "torch", "cuda:99", proxy=proxy.unix_url)


def test_a_full_gpu_is_one_error(proxy: Proxy) -> None:
    """Where memory does not suffice the error is DeviceFailed, and the next load is right again."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4, 0)
    try:
        with pytest.raises(hotstart.DeviceFailed, match="out of memory"):
            hotstart.load(REFERENCE, "torch", DEVICE, proxy=proxy.unix_url)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    assert hotstart.load(REFERENCE, "torch", DEVICE, proxy=proxy.unix_url)
