"""The table of dtypes."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from hotstart.wire.dtypes import BITS
from hotstart.wire.safetensors import LENGTH_BYTES, build_header, parse_header
from tests.support.safetensors_library import read_with_library


def test_there_are_22() -> None:
    """The table has the 22 dtypes of safetensors 0.8."""
    assert len(BITS) == 22


@pytest.mark.parametrize("dtype", BITS)
def test_bits_agree_with_the_library(dtype: str) -> None:
    """The library takes 24 elements of the dtype in exactly the bytes that the table gives, and no others."""
    header = build_header([("t", dtype, (24,))])
    size = 24 * BITS[dtype] // 8
    assert parse_header(header[LENGTH_BYTES:], len(header) + size).data_bytes == size
    tensor = read_with_library(header + bytes(size))["t"]
    assert (tensor.dtype, tensor.shape) == (dtype, (24,))
    with pytest.raises(SafetensorError):
        read_with_library(header + bytes(size + 1))


@pytest.mark.parametrize("name", ["F128", "float32", "f32", "C128", "F8", "I4", "U4", "F6", ""])
def test_other_names_are_unknown_to_the_library_too(name: str) -> None:
    """A name that is not in the table is none of the library's."""
    assert name not in BITS
    text = f'{{"t":{{"dtype":"{name}","shape":[0],"data_offsets":[0,0]}}}}'.encode()
    with pytest.raises(SafetensorError, match="unknown variant"):
        read_with_library(len(text).to_bytes(8, "little") + text)
