"""``hotstart inspect`` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import numpy.typing
import pytest
from safetensors.numpy import save_file

from tests.support.processes import Processes

MIB = 1 << 20
TENSORS: dict[str, numpy.typing.NDArray[numpy.generic]] = {
    "large": numpy.zeros((5, MIB), dtype=numpy.uint8),
    "small": numpy.zeros((2, 3), dtype=numpy.float32),
    "scalar": numpy.array(1, dtype=numpy.int64),
    "empty": numpy.zeros((0, 3), dtype=numpy.float32),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with one tensor of two frames and three small ones."""
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path


def inspect(processes: Processes, path: Path) -> dict[str, object]:
    found = json.loads(processes.run("inspect", "--json", str(path)).check().stdout)
    assert isinstance(found, dict)
    return found


def test_plain_file(source: Path, processes: Processes) -> None:
    """A plain file is described by its header: tensors, dtypes, sizes and places."""
    found = inspect(processes, source)
    data = source.read_bytes()
    assert found["form"] == "safetensors"
    assert found["bytes"] == found["identity_bytes"] == len(data)
    assert found["header_length"] == int.from_bytes(data[:8], "little")
    assert found["metadata"] == {"format": "pt"}
    assert found["frames"] is None
    assert found["dtypes"] == {
        "U8": {"tensors": 1, "bytes": 5 * MIB},
        "F32": {"tensors": 2, "bytes": 24},
        "I64": {"tensors": 1, "bytes": 8},
    }
    tensors = found["tensors"]
    assert isinstance(tensors, list)
    assert {tensor["name"] for tensor in tensors} == set(TENSORS)
    for tensor in tensors:
        array = TENSORS[tensor["name"]]
        assert tensor["shape"] == list(array.shape)
        assert data[tensor["offset"] : tensor["offset"] + tensor["bytes"]] == array.tobytes()


def test_framed_file(source: Path, processes: Processes) -> None:
    """A packed file is described as the file that it holds, with its frames and ratios."""
    processes.run("pack", str(source)).check()
    packed = source.with_name("model.safetensors.zst")
    plain, found = inspect(processes, source), inspect(processes, packed)
    assert found["form"] == "safetensors.zst"
    assert found["bytes"] == packed.stat().st_size
    assert found["identity_bytes"] == source.stat().st_size
    assert [found[key] for key in ("header_length", "metadata", "dtypes")] == [
        plain[key] for key in ("header_length", "metadata", "dtypes")
    ]
    frames, tensors = found["frames"], found["tensors"]
    assert isinstance(frames, list)
    assert isinstance(tensors, list)
    assert frames[0]["identity_bytes"] == 8 + int(str(found["header_length"]))
    assert sum(frame["identity_bytes"] for frame in frames) == found["identity_bytes"]
    places = {tensor["name"]: tensor["frames"] for tensor in tensors}
    last = len(frames) - 1
    assert places["large"] == [last - 1, last]
    assert places["empty"] is None
    assert all(0 <= tensor["ratio"] < 1 for tensor in tensors if tensor["frames"] is not None)


def test_planes(source: Path, processes: Processes) -> None:
    """A file of byte planes is described as the file that it holds, with the width of every frame."""
    processes.run("pack", "--planes", str(source)).check()
    packed = source.with_name("model.safetensors.zsp")
    plain, found = inspect(processes, source), inspect(processes, packed)
    assert found["form"] == "safetensors.zsp"
    assert (found["bytes"], found["identity_bytes"]) == (packed.stat().st_size, source.stat().st_size)
    frames, tensors = found["frames"], found["tensors"]
    assert isinstance(frames, list)
    assert isinstance(tensors, list)
    assert sum(frame["identity_bytes"] for frame in frames) == found["identity_bytes"]
    assert [tensor["offset"] for tensor in tensors] == [tensor["offset"] for tensor in plain["tensors"]]  # type: ignore[attr-defined]
    widths = {tensor["name"]: frames[tensor["frames"][0]]["width"] for tensor in tensors if tensor["frames"]}
    assert widths == {"large": 1, "small": 4, "scalar": 8}
    printed = processes.run("inspect", str(packed)).check().stdout
    assert "form      byte planes of safetensors" in printed
    heads = [line.split() for line in printed.splitlines()]
    assert ["frame", "offset", "bytes", "identity", "width", "ratio"] in heads


def test_tables(source: Path, processes: Processes) -> None:
    """Without --json the same is printed as aligned tables for people."""
    processes.run("pack", str(source)).check()
    lines = processes.run("inspect", f"{source}.zst").check().stdout.splitlines()
    assert lines[0] == f"file      {source}.zst"
    assert any(line.split() == ["dtype", "tensors", "bytes"] for line in lines)
    assert any(line.split() == ["U8", "1", "5,242,880"] for line in lines)
    assert any(line.split() == ["tensor", "dtype", "shape", "bytes", "frames", "ratio"] for line in lines)
    assert any(line.split() == ["frame", "offset", "bytes", "identity", "ratio"] for line in lines)
    assert any(line.startswith("empty ") for line in lines)
    tables = processes.run("inspect", str(source)).check().stdout
    assert "frame  " not in tables


def test_terminals_are_safe(processes: Processes, tmp_path: Path) -> None:
    """Names and metadata of a file cannot send commands to the terminal."""
    path = tmp_path / "evil.safetensors"
    save_file({"a\x1b[2Jb\u202ec": numpy.zeros(1)}, path, {"k\n": "\x1b]0;title\x07"})
    printed = processes.run("inspect", str(path)).check().stdout
    assert r"a\x1b[2Jb\u202ec" in printed
    assert r"k\n = \x1b]0;title\x07" in printed
    assert all(line.isprintable() for line in printed.split("\n"))


def test_file_without_tensors(processes: Processes, tmp_path: Path) -> None:
    """A file that holds no tensors has empty tables."""
    save_file({}, tmp_path / "empty.safetensors")
    found = inspect(processes, tmp_path / "empty.safetensors")
    assert (found["tensors"], found["dtypes"]) == ([], {})
    assert "0 tensors" in processes.run("inspect", str(tmp_path / "empty.safetensors")).check().stdout


@pytest.mark.parametrize("content", [b"", b"abc", b"\x28\xb5\x2f\xfd", b"{}" * 50])
def test_other_files(content: bytes, processes: Processes, tmp_path: Path) -> None:
    """What is neither form is an error that names the file."""
    (tmp_path / "x").write_bytes(content)
    finished = processes.run("inspect", str(tmp_path / "x"))
    assert finished.status == 1
    assert f"of {tmp_path / 'x'}" in finished.stderr or f"file {tmp_path / 'x'}" in finished.stderr
    assert "Traceback" not in finished.stderr
