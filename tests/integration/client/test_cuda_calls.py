"""The calls to CUDA, against a strict stand-in: what is called, in which order. The GPU: tests/gpu."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

import hotstart
from hotstart.devices.cuda import CudaDevice
from tests.integration.client.conftest import Published
from tests.support.deadlines import wait_until

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from tests.support.cuda import StandIn, Stream  # noqa: E402 - it imports torch

MEBIBYTE = 1024 * 1024


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(monkeypatch)


def small_ring() -> CudaDevice:
    return CudaDevice(0, ring_bytes=16 * MEBIBYTE, slot_bytes=8 * MEBIBYTE)


def plain(tensor: Any) -> Any:
    return tensor.as_subclass(torch.Tensor)


def assert_same(found: dict[str, Any], published: Published, dtype: Any = None) -> None:
    expected = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        wanted = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        assert found[name].dtype == wanted.dtype
        assert torch.equal(plain(found[name]), wanted), name


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "small ring"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_load_is_copied_from_pinned_memory(
    gpu: StandIn, published: Published, device: str, dtype: object
) -> None:
    """Every copy is from registered memory, on a stream that its memory knows, and done in the end."""
    where = small_ring() if device == "small ring" else device
    found = hotstart.load("org/bert@1", "torch", where, dtype=dtype, origin=published.origin)
    assert not gpu.pinned
    assert_same(found, published, dtype)


@pytest.mark.parametrize("own_stream", [False, True])
def test_the_callers_stream_waits_for_a_tensors_copy(
    gpu: StandIn, published: Published, *, own_stream: bool
) -> None:
    """A streamed tensor is right once its user's stream gets there; its memory knows that stream."""
    stream = Stream("cuda:0") if own_stream else gpu.default
    found = {}
    waits = len(stream.issued)
    with torch.cuda.stream(stream):
        for name, tensor in hotstart.stream("org/bert@1", "torch", "cuda:0", origin=published.origin):
            if tensor.numel():
                assert stream in tensor.storage_of.streams
            assert len(stream.issued) > waits
            waits = len(stream.issued)
            found[name] = tensor
    stream.synchronize()
    assert_same(found, published)


def test_a_gpu_that_is_not_there_is_named(gpu: StandIn, published: Published) -> None:
    """An index beyond the GPUs that there are is an error that lists those, and nothing stays pinned."""
    with pytest.raises(hotstart.InvalidOption, match="device='cuda:3': expected one that is here: cuda:0"):
        hotstart.load("org/bert@1", "torch", "cuda:3", origin=published.origin)
    assert not gpu.pinned


def test_a_refusal_to_pin_is_an_error(
    gpu: StandIn, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver answers is named with its number, for the ring and for tensors in pinned memory."""
    monkeypatch.setattr(gpu, "cudaHostRegister", lambda address, size, flags: 2)
    for device in ("cuda:0", "pinned"):
        with pytest.raises(hotstart.DeviceFailed, match=r"pinning \d+ MiB of memory gave CUDA error 2"):
            hotstart.load("org/bert@1", "torch", device, origin=published.origin)


def test_pinned_memory_is_registered_until_it_goes(gpu: StandIn, published: Published) -> None:
    """device="pinned" registers exactly what tensors lie in, and tells the driver before it goes."""
    found = hotstart.load("org/bert@1", "torch", "pinned", origin=published.origin)
    for tensor in found.values():
        if tensor.numel():
            gpu.check_pinned(tensor)
    assert_same(found, published)
    del found, tensor
    gc.collect()
    assert not gpu.pinned


def test_an_early_end_unpins_the_ring(gpu: StandIn, published: Published) -> None:
    """Closing a stream early waits for what was issued, unpins, and leaves no thread."""
    before = set(threading.enumerate())
    stream = hotstart.stream("org/bert@1", "torch", small_ring(), origin=published.origin)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not gpu.pinned
    wait_until("its threads have ended", lambda: not set(threading.enumerate()) - before)
