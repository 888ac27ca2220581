"""torch tensors, against the safetensors library's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import hotstart
from tests.integration.client.conftest import Published

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


def same_bits(found: object, expected: object) -> bool:
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (found, expected)]  # type: ignore[attr-defined]
    return bool(torch.equal(*flat))


def test_tensors_are_those_of_the_library(published: Published) -> None:
    """Every tensor has dtype, shape and bits of safetensors' load_file."""
    expected = safetensors_torch.load_file(published.weights("org/bert@1")[0])
    found = hotstart.load("org/bert@1", framework="torch", origin=published.origin)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        if tensor.numel():
            assert same_bits(found[name], tensor), name


def test_every_dtype_is_that_of_the_library(published: Published) -> None:
    """All dtypes, packed and 8-bit ones included, scalars and empty tensors, are as safe_open gives them."""
    import safetensors

    path = published.weights("org/odd@dtypes")[0]
    found = hotstart.load("org/odd@dtypes", framework="torch", origin=published.origin)
    with safetensors.safe_open(path, "pt") as library:
        assert sorted(found) == sorted(library.keys())
        for name in library.keys():  # noqa: SIM118 - it is no mapping
            expected = library.get_tensor(name)
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
            if expected.numel() and expected.dim():
                assert same_bits(found[name], expected), name


def test_tensors_are_writeable_and_outlive_the_load(published: Published) -> None:
    """A tensor keeps its memory alive, and may be changed in place."""
    tensor = hotstart.load("org/bert@1", framework="torch", origin=published.origin)["logit_scale"]
    tensor += 1
    assert torch.isfinite(tensor)


def test_raw_bytes_are_uint8(published: Published) -> None:
    """raw=True gives bytes whatever the dtype."""
    found = hotstart.load("org/odd@dtypes", framework="torch", origin=published.origin, raw=True)
    assert all(tensor.dtype == torch.uint8 and tensor.dim() == 1 for tensor in found.values())
    assert found["F4.matrix"].numel() == 24


def test_unaligned_tensors_are_copied(tmp_path: Path) -> None:
    """A tensor at an odd offset is right and aligned, for torch as for numpy."""
    import json
    import struct

    import numpy

    data = numpy.arange(4, dtype=numpy.float32).tobytes()
    header = json.dumps(
        {
            "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "odd": {"dtype": "F32", "shape": [4], "data_offsets": [1, 17]},
        }
    ).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x07" + data)
    for framework in ("torch", "numpy"):
        found = hotstart.load_file(path, framework=framework)
        assert found["byte"].tolist() == [7]
        assert found["odd"].tolist() == [0, 1, 2, 3]
    assert hotstart.load_file(path)["odd"].flags.aligned
