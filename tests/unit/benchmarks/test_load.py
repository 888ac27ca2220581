"""What the benchmark of loading measures, and how a load is measured."""

from __future__ import annotations

import numpy
import pytest

from benchmarks.harness.profile import PROFILES, GiB
from benchmarks.load import matrix
from benchmarks.loaders import ARMS, arms_of
from benchmarks.peers.measuring import checksum, own_memory_bytes


def test_quick_is_the_real_model_on_this_host() -> None:
    """CI loads one small model, so that the benchmark cannot rot."""
    assert [cell.key for cell in matrix(PROFILES["quick"])] == ["MiniLM fp32, this host"]


def test_a_quarter_of_an_hour_is_kept() -> None:
    """The profile bench has files of at most 1 GiB, and 256 MiB over the slowest link."""
    cells = matrix(PROFILES["bench"])
    assert max(cell.size_bytes or 0 for cell in cells) == GiB
    assert [cell.model for cell in cells if cell.bits_per_second == 1_000_000_000] == ["256 MiB fp32"]


def test_full_is_the_whole_matrix() -> None:
    """Every file of the matrix on this host and over every link, each once."""
    cells = matrix(PROFILES["full"])
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys) == 5 * 4
    assert {cell.model for cell in cells} == {
        "MiniLM fp32",
        "MiniLM bf16",
        "1 GiB fp32",
        "1 GiB bf16",
        "4 GiB fp32",
    }


def test_only_what_can_be_is_measured_over_links() -> None:
    """Neither the shared volume nor a Unix socket nor a local file is there at the other end of a link."""
    remote = {arm.name for arm in arms_of(over_link=True)}
    assert not remote & {"hotstart, shared volume", "hotstart, Unix socket", "limit: mmap of a local file"}
    assert {arm.name for arm in ARMS if arm.group == "peer"} <= remote
    assert len({arm.name for arm in ARMS}) == len(ARMS)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
def test_a_sum_over_all_bytes_knows_the_bytes_and_not_their_order(dtype: str) -> None:
    """The same tensors in another order have the same sum; one other byte anywhere gives another."""
    noise = numpy.random.default_rng(1)
    tensors = [
        numpy.asarray(noise.normal(size=shape) * 100).astype(dtype)
        for shape in [(3, 5), (), (0, 4), (1001,), (8, 8)]
    ]
    expected = checksum(tensors)
    assert checksum(reversed(tensors)) == expected
    for tensor in tensors:
        if tensor.size:
            last = tensor.reshape(-1).view(numpy.uint8)
            last[-1] ^= 1
            assert checksum(tensors) != expected
            last[-1] ^= 1


def test_the_memory_of_a_process_that_has_ended_is_none() -> None:
    """Whoever watches a process may look once too often."""
    assert own_memory_bytes(2**22 + 1) == 0
