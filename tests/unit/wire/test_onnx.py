"""Finding the files that an ONNX model's tensors lie in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.errors import FormatError
from hotstart.wire.onnx import external_files
from tests.support.onnx_models import message, save_linear


def external_tensor(location: str) -> bytes:
    return message(
        (8, "w"), (13, message((1, "location"), (2, location))), (13, message((1, "offset"), (2, "0")))
    )


def test_a_model_without_external_data_names_no_file(tmp_path: Path) -> None:
    """Tensors inside the model need no other file."""
    save_linear(tmp_path / "model.onnx", seed=1)
    assert external_files((tmp_path / "model.onnx").read_bytes()) == []


def test_a_file_is_named_once(tmp_path: Path) -> None:
    """Two tensors in one file name it once."""
    save_linear(tmp_path / "model.onnx", seed=1, external="model.onnx_data")
    assert external_files((tmp_path / "model.onnx").read_bytes()) == ["model.onnx_data"]


def test_tensors_are_found_wherever_they_can_be() -> None:
    """In constants, subgraphs, lists of them, functions and sparse tensors, locations are found."""
    subgraph = message((5, external_tensor("in-subgraph")))
    attributes = [
        message((1, "value"), (5, external_tensor("in-constant"))),
        message((1, "then_branch"), (6, subgraph)),
        message((1, "list"), (10, external_tensor("in-list"))),
        message(
            (1, "sparse"), (22, message((1, external_tensor("values")), (2, external_tensor("indices"))))
        ),
    ]
    node = message(*((5, attribute) for attribute in attributes))
    graph = message((1, node), (15, message((1, external_tensor("in-sparse")))))
    model = message((1, 8), (7, graph), (25, message((7, message((5, attributes[0]))))))
    assert external_files(model) == [
        "in-constant", "in-subgraph", "in-list", "values", "indices", "in-sparse",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"\x3a\x05\x00", "beyond its message's end"),
        (b"\x3a\xff", "number is cut short"),
        (b"\xff" * 11, "number is cut short, or longer"),
        (b"\x09\x00", "last field is cut short"),
        (b"\x0b", "wire type 3"),
        (message((7, message((5, message((13, message((1, "location"), (2, b"\xff")))))))), "not UTF-8"),
    ],
)
def test_other_bytes_are_refused(model: bytes, reason: str) -> None:
    """What is no protobuf message is the one documented error."""
    with pytest.raises(FormatError, match=reason):
        external_files(model)


def test_endless_nesting_is_refused() -> None:
    """Subgraphs in subgraphs end at a depth, not at the interpreter's stack."""
    graph = b""
    for _ in range(200):
        graph = message((1, message((5, message((6, graph))))))
    with pytest.raises(FormatError, match="deeper"):
        external_files(message((7, graph)))


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    """Any bytes give names or the one documented error."""
    try:
        found = external_files(data)
    except FormatError:
        return
    assert all(isinstance(name, str) for name in found)
