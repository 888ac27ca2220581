"""Tensors in pinned host memory, with a pin that notes what a driver would be told."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

import hotstart
from hotstart.devices.pinned import PinnedMemory
from hotstart.wire.errors import HotstartError
from tests.integration.client.conftest import Published, warm
from tests.integration.client.test_devices import bits
from tests.support.deadlines import wait_until
from tests.support.processes import Proxy

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


class Driver:
    """Notes which addresses are pinned."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.pinned: dict[int, int] = {}
        self.gate = gate

    def pin(self, memory: memoryview) -> Callable[[], None]:
        if self.gate is not None:
            self.gate.wait()
        address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
        self.pinned[address] = len(memory)

        def unpin() -> None:
            # The memory must be there still.
            assert self.pinned.pop(address)

        return unpin

    def covers(self, tensor: object) -> bool:
        start = tensor.data_ptr()  # type: ignore[attr-defined]
        stop = start + tensor.nbytes  # type: ignore[attr-defined]
        return any(address <= start and stop <= address + size for address, size in self.pinned.items())


@pytest.mark.parametrize(
    "tensors", [None, ["logit_scale", "encoder.layer.2.attention.query.weight", "unused"]]
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_tensors_lie_in_pinned_memory_until_they_die(
    published: Published, compression: str, tensors: list[str] | None
) -> None:
    """Bytes arrive in memory that is pinned when the load returns, and unpinned when its last view dies."""
    driver = Driver()
    found = hotstart.load(
        "org/bert@1",
        "torch",
        PinnedMemory(driver.pin),
        origin=published.origin,
        compression=compression,
        tensors=tensors,
    )
    expected = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    for name, tensor in found.items():
        assert bits(tensor) == bits(expected[name]), name
        assert not tensor.numel() or driver.covers(tensor), name
    view = found["logit_scale"]
    del found, tensor
    gc.collect()
    assert driver.covers(view)
    del view
    gc.collect()
    assert not driver.pinned


def test_what_is_mapped_is_copied_into_pinned_memory(proxy: Proxy, published: Published) -> None:
    """A file on a shared volume cannot be pinned where it lies: its tensors are copies that are."""
    driver = Driver()
    model = hotstart.open("org/bert@2", proxy=proxy.unix_url, shared_dir=str(proxy.store))
    warm(proxy, model)
    found = model.load("torch", PinnedMemory(driver.pin))
    assert found.report.representations == ("mapped",)
    host = model.load("torch")
    for name, tensor in found.items():
        assert bits(tensor) == bits(host[name])
        assert not tensor.numel() or driver.covers(tensor), name


def test_bytes_arrive_while_memory_is_being_pinned(published: Published) -> None:
    """Pinning holds up no transfer, and a tensor is handed out only when it is pinned."""
    gate = threading.Event()
    driver = Driver(gate)
    loading = hotstart.prefetch("org/bert@1", "torch", PinnedMemory(driver.pin), origin=published.origin)
    wait_until("all bytes are there", loading.done)
    assert not driver.pinned
    gate.set()
    tensor = loading.result()["embeddings.word_embeddings.weight"]
    assert driver.covers(tensor)


def test_memory_that_cannot_be_pinned_is_an_error(published: Published) -> None:
    """If the driver refuses, the load fails with its reason, rather than give memory that is slow."""

    def refuse(memory: memoryview) -> Callable[[], None]:
        raise hotstart.DeviceFailed("pinned memory", "no more of it")

    with pytest.raises(HotstartError, match="loading to pinned memory failed: no more of it"):
        hotstart.load("org/bert@1", "torch", PinnedMemory(refuse), origin=published.origin)
