"""Byte planes regrouped by numpy and torch: what the standard library makes of them, only faster."""

from __future__ import annotations

import random

import numpy
import pytest
import torch

from hotstart.frameworks import regrouping
from hotstart.frameworks.regrouping import choose_merge, regroup_numpy, regroup_torch
from hotstart.wire.planes import merge, split

# Below and above a block, and none a multiple of one.
ELEMENTS = (1, 1001, 131_071, 131_072, 300_003)


@pytest.fixture(params=[(width, elements) for width in (1, 2, 4, 8) for elements in ELEMENTS], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[int, bytes]:
    """A width, and content."""
    width, elements = request.param
    return width, random.Random(elements).randbytes(width * elements)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("regroup", [merge, regroup_numpy])
def test_on_the_host(case: tuple[int, bytes], regroup: regrouping.Merge, offset: int) -> None:
    """Every way gives the content back, at any address, and writes nowhere else."""
    width, content = case
    memory = bytearray(len(content) + 16)
    destination = memoryview(memory)[8 + offset : 8 + offset + len(content)]
    regroup(memoryview(bytes(split(content, width))), width, destination)
    assert memory == bytes(8 + offset) + content + bytes(8 - offset)


def test_with_torch(case: tuple[int, bytes]) -> None:
    """torch regroups tensors, into new memory or into that given."""
    width, content = case
    planes = torch.frombuffer(bytearray(split(content, width)), dtype=torch.uint8)
    expected = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    found = regroup_torch(planes, width)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)
    room = torch.zeros(len(content), dtype=torch.uint8)
    assert regroup_torch(planes, width, room) is room
    assert torch.equal(room, expected)


def test_regrouped_bytes_are_the_numbers() -> None:
    """What comes out is what little-endian numbers are made of."""
    numbers = numpy.arange(-500, 500, dtype=numpy.float32)
    planes = torch.frombuffer(bytearray(split(numbers.tobytes(), 4)), dtype=torch.uint8)
    assert regroup_torch(planes, 4).view(torch.float32).tolist() == numbers.tolist()


def test_numpy_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy the standard library does it."""
    assert choose_merge() is regroup_numpy
    monkeypatch.setattr(regrouping, "find_spec", lambda name: None)
    assert choose_merge() is merge
