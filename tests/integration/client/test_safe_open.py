"""safe_open, against the safetensors library's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors

import hotstart
from hotstart.reader import SafeOpen
from hotstart.wire.pieces import PIECE_BYTES
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with

NAME = "encoder.layer.1.attention.query.weight"
SLICES = [
    numpy.s_[...],
    numpy.s_[7],
    numpy.s_[-1],
    numpy.s_[3:5],
    numpy.s_[-4:],
    numpy.s_[:, 17],
    numpy.s_[:, 100:103],
    numpy.s_[5, 10:20],
    numpy.s_[5, -1],
    numpy.s_[2:11:3],
    numpy.s_[..., 4],
    numpy.s_[4, ...],
    numpy.s_[:, ::50],
    numpy.s_[1:3, 2:4],
    numpy.s_[10:5],
    numpy.s_[:100000],
    (),
]


@pytest.fixture(params=["reference", "path", "shards"])
def opened(request: pytest.FixtureRequest, published: Published) -> SafeOpen:
    """Weights by reference, by path, and of a sharded version."""
    if request.param == "path":
        return SafeOpen(published.weights("org/bert@1")[0])
    reference = "org/bert@1" if request.param == "reference" else "org/bert@2"
    return SafeOpen(reference, origin=published.origin)


@pytest.fixture
def expected(request: pytest.FixtureRequest, published: Published) -> dict[str, Any]:
    from safetensors.numpy import load_file

    reference = "org/bert@2" if "shards" in request.node.name else "org/bert@1"
    return {name: array for path in published.weights(reference) for name, array in load_file(path).items()}


def test_names_and_metadata(opened: SafeOpen, expected: dict[str, Any]) -> None:
    """keys, in and metadata are those of the whole version."""
    with opened as weights:
        assert weights.keys() == sorted(expected)
        assert sorted(weights.offset_keys()) == sorted(expected)
        assert NAME in weights
        assert "nope" not in weights
        assert weights.metadata() == {"format": "pt"}


def test_tensors(opened: SafeOpen, expected: dict[str, Any]) -> None:
    """get_tensor gives every tensor's bits, again and again, each time in memory of its own."""
    with opened as weights:
        for name, array in expected.items():
            found = weights.get_tensor(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
        assert sorted(weights.get_tensors(["logit_scale", NAME])) == [NAME, "logit_scale"]
        with pytest.raises(hotstart.TensorNotFound):
            weights.get_tensor("nope")
        with pytest.raises(hotstart.TensorNotFound):
            weights.get_slice("nope")


@pytest.mark.parametrize("index", SLICES, ids=str)
def test_slices(opened: SafeOpen, expected: dict[str, Any], index: Any) -> None:
    """A slice is what the same slice of the whole tensor is."""
    with opened as weights:
        part = weights.get_slice(NAME)
        assert part.get_shape() == list(expected[NAME].shape)
        assert part.get_dtype() == "F32"
        found = part[index]
        assert found.shape == expected[NAME][index].shape
        assert numpy.array_equal(found, expected[NAME][index])


@pytest.mark.parametrize(
    "index", [numpy.s_[...], 5, numpy.s_[2:4], numpy.s_[:, 7:9], numpy.s_[3, 4], numpy.s_[::2]], ids=str
)
@pytest.mark.parametrize("framework", ["np", "pt"])
def test_slices_are_the_library_s(published: Published, index: Any, framework: str) -> None:
    """Where the library takes a slice, ours is the same in type, shape and bits."""
    if framework == "pt":
        pytest.importorskip("torch")
    with (
        safetensors.safe_open(published.weights("org/bert@1")[0], framework) as library,
        SafeOpen("org/bert@1", framework, origin=published.origin) as weights,
    ):
        theirs, ours = library.get_slice(NAME)[index], weights.get_slice(NAME)[index]
        assert type(ours) is type(theirs)
        assert ours.shape == theirs.shape
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (10**6, "out of bounds of an axis of"),
        ((0, 0, 0), "the tensor has 2 axes"),
        ([0, 2], "expected integers, slices and"),
        (True, "expected integers, slices and"),
        (slice(None, None, -1), "a step must be at least 1"),
        ((..., ...), "at most one"),
    ],
    ids=str,
)
def test_a_slice_that_cannot_be_taken_says_why(published: Published, index: Any, message: str) -> None:
    """A wrong index is an error that is an IndexError too."""
    with SafeOpen("org/bert@1", origin=published.origin) as weights:
        with pytest.raises(hotstart.InvalidSlice, match=message) as caught:
            weights.get_slice(NAME)[index]
        assert isinstance(caught.value, IndexError)


def test_it_is_lazy(bert: Version) -> None:
    """One row costs a piece, not the file; small neighbours of what was read cost nothing more."""
    source = FaultySource(bert, is_local=True)
    weights = SafeOpen(open_with(bert, source))
    first = source.total
    weights.get_slice(NAME)[0]
    weights.get_tensor("logit_scale")
    weights.get_tensor("encoder.layer.1.attention.query.bias")
    assert source.total - first <= 3 * PIECE_BYTES
    before = source.total
    weights.get_tensor("logit_scale")
    assert source.total == before
    weights.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_works_from_threads_and_after_a_fork(published: Published) -> None:
    """Several threads may read; a forked child reads with connections of its own."""
    from concurrent.futures import ThreadPoolExecutor

    with SafeOpen("org/bert@2", origin=published.origin) as weights:
        names = weights.keys() * 3
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(weights.get_tensor, names))
        sizes = [array.nbytes for array in found]
        child = os.fork()
        if child == 0:
            same = weights.get_tensor(NAME).nbytes == sizes[names.index(NAME)]
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A missing, an empty and a foreign file each say what is wrong."""
    with pytest.raises(hotstart.HotstartError, match="No such file"):
        hotstart.safe_open(tmp_path / "nope.safetensors")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    with pytest.raises(hotstart.FormatError, match="0 bytes"):
        hotstart.safe_open(empty)
    empty.write_bytes(b"\x89PNG\r\n\x1a\n" * 10)
    with pytest.raises(hotstart.FormatError, match=r"is this a \.safetensors file"):
        hotstart.load_file(empty)


def test_load_file_takes_paths_and_references(published: Published) -> None:
    """load_file gives a plain dict of all tensors, of a local file or of a version."""
    path = published.weights("org/bert@1")[0]
    by_path = hotstart.load_file(str(path))
    by_reference = hotstart.load_file("org/bert@1", origin=published.origin)
    assert type(by_path) is type(by_reference) is dict
    assert {name: array.tobytes() for name, array in by_path.items()} == {
        name: array.tobytes() for name, array in by_reference.items()
    }
