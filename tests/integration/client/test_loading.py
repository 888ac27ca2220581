"""Loading from a directory origin, with the safetensors library's reading as the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file

import hotstart
from hotstart.wire.dtypes import BITS
from tests.integration.client.conftest import Published
from tests.support.models import assert_same_tensors
from tests.support.safetensors_library import read_with_library


@pytest.mark.parametrize("verify", [None, "none", "pieces", "full"])
@pytest.mark.parametrize("compression", ["auto", "none", "zstd", "planes"])
def test_every_way_gives_the_same_tensors(published: Published, verify: str | None, compression: str) -> None:
    """Whatever is checked and however it is sent, the tensors are those of the file."""
    found = hotstart.load("org/bert@1", origin=published.origin, verify=verify, compression=compression)
    assert found.version == "1"
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert found.report.representations == (compression if compression in ("zstd", "planes") else "identity",)
    assert found.report.tensor_bytes == sum(tensor.nbytes for tensor in found.values())


def test_a_sharded_version_is_the_union_of_its_shards(published: Published) -> None:
    """A version in shards loads as one, in one dict, by the alias that means it."""
    found = hotstart.load("org/bert", origin=published.origin)
    assert found.version == "2"
    expected = {
        name: tensor for path in published.weights("org/bert@2") for name, tensor in load_file(path).items()
    }
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].tobytes() == tensor.tobytes()


def test_one_model_speaks_of_one_version(published: Published) -> None:
    """Weights, side files and report of an opened model are of the version that it was opened as."""
    model = hotstart.open("org/bert@prod", origin=published.origin)
    assert (model.model, model.version, model.reference) == ("org/bert", "2", "org/bert@2")
    assert model.report.tensors == 0
    tokenizer = json.loads(model.read("tokenizer.json"))
    assert len(tokenizer["model"]["vocab"]) == 5000
    assert model.load().version == "2"
    assert model.report.tensors == 16
    assert [file.path for file in model.files] == sorted(
        str(path.relative_to(published.folders["org/bert@2"]))
        for path in published.folders["org/bert@2"].rglob("*")
        if path.is_file()
    )


def test_reading_an_unknown_file_lists_those_there_are(published: Published) -> None:
    """A file that is not there is an error that says which are."""
    model = hotstart.open("org/bert@1", origin=published.origin)
    with pytest.raises(
        hotstart.FileNotInVersion, match=r"'vocab\.txt'; it has 1_Pooling/config\.json, config"
    ):
        model.read("vocab.txt")


def test_an_empty_side_file_is_read(published: Published) -> None:
    """A file of no bytes is read without asking for any."""
    assert hotstart.open("org/odd@none", origin=published.origin).read("empty.txt") == b""


@pytest.mark.parametrize("compression", ["none", "zstd", "planes"])
@pytest.mark.parametrize("verify", [None, "none"])
def test_some_tensors_are_loaded_alone(published: Published, compression: str, verify: str | None) -> None:
    """Named tensors are loaded, in whatever shard they are, and little more than their bytes is fetched."""
    whole = load_file(published.weights("org/bert@1")[0])
    names = ["logit_scale", "unused", "encoder.layer.2.attention.query.weight", "embeddings.position_ids"]
    found = hotstart.load(
        "org/bert@1", origin=published.origin, tensors=names, compression=compression, verify=verify
    )
    assert sorted(found) == sorted(names)
    for name in names:
        assert found[name].tobytes() == whole[name].tobytes()
        assert found[name].shape == whole[name].shape
    received = sum(found.report.received_bytes.values())
    assert received < sum(tensor.nbytes for tensor in whole.values())
    if verify == "none" and compression == "none":
        assert received <= found.report.tensor_bytes + 600 * 1024


def test_a_tensor_that_is_not_there_is_named(published: Published) -> None:
    """An unknown name is an error that gives those that it could have been."""
    for reference in ("org/bert@1", "org/bert@2"):
        with pytest.raises(hotstart.TensorNotFound, match=r"has no tensor 'logit_scal'.*is it 'logit_scale'"):
            hotstart.load(reference, origin=published.origin, tensors=["logit_scal"])


def test_no_tensors_are_wanted(published: Published) -> None:
    """An empty list of names gives an empty dict."""
    assert hotstart.load("org/bert@1", origin=published.origin, tensors=[]) == {}


def test_a_file_without_tensors(published: Published) -> None:
    """A Safetensors file that holds no tensors loads as an empty dict."""
    found = hotstart.load("org/odd@empty", origin=published.origin)
    assert found == {}
    assert found.report.tensor_bytes == 0


def test_every_dtype_has_its_bytes(published: Published) -> None:
    """All dtypes that the library writes come back as its own reading of their bytes."""
    path = published.weights("org/odd@dtypes")[0]
    expected = read_with_library(path.read_bytes())
    found = hotstart.load("org/odd@dtypes", origin=published.origin, raw=True)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: tensor.data for name, tensor in expected.items()
    }
    assert all(array.dtype == numpy.uint8 and array.ndim == 1 for array in found.values())


def test_numpy_takes_all_but_the_packed_dtypes(published: Published) -> None:
    """numpy arrays have dtype and shape of the header, with ml_dtypes where numpy lacks one."""
    expected = read_with_library(published.weights("org/odd@dtypes")[0].read_bytes())
    names = [name for name, tensor in expected.items() if tensor.dtype != "F4"]
    found = hotstart.load("org/odd@dtypes", origin=published.origin, tensors=names)
    assert len(found) == len(names)
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        assert array.dtype.itemsize * 8 == BITS[expected[name].dtype], name
        assert array.tobytes() == expected[name].data, name
        assert array.flags.writeable
        assert array.flags.aligned


def test_a_packed_dtype_names_the_way_out(published: Published) -> None:
    """A dtype that numpy cannot represent is an error that says what to do, before its bytes are fetched."""
    with pytest.raises(hotstart.UnsupportedDtype, match=r"'F4\.\w+' is F4.*framework='torch'.*raw=True"):
        hotstart.load("org/odd@dtypes", origin=published.origin)


def test_what_a_reference_leaves_open_is_an_error_with_the_choices(published: Published) -> None:
    """Several root files are an error that lists what can be named; naming one loads it."""
    with pytest.raises(hotstart.WeightsNotFound, match=r"org/odd@many/unet/x\.safetensors"):
        hotstart.load("org/odd@many", origin=published.origin)
    found = hotstart.load("org/odd@many/unet/x.safetensors", origin=published.origin)
    assert found["t"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(hotstart.WeightsNotFound, match=r"holds no \.safetensors file"):
        hotstart.load("org/odd@none", origin=published.origin)


def test_streamed_tensors_are_those_of_the_file(published: Published) -> None:
    """stream yields each tensor once, and the report is there at its end."""
    model = hotstart.open("org/bert@1", origin=published.origin)
    found = dict(model.stream())
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert model.report.tensors == len(found)


def test_tensors_outlive_everything_else(published: Published) -> None:
    """A tensor keeps its memory when the dict, the model and the other tensors are gone."""
    array = hotstart.load("org/bert@1", origin=published.origin)["encoder.layer.1.attention.query.weight"]
    expected = load_file(published.weights("org/bert@1")[0])["encoder.layer.1.attention.query.weight"]
    array += 1
    assert numpy.array_equal(array, expected + 1)


def test_an_adopted_version_loads_and_says_what_was_not_checked(tmp_path: Path) -> None:
    """Plain files are loaded though nobody knows their digests; a check that was asked for is refused."""
    import os

    from safetensors.numpy import save_file

    folder = tmp_path / "org" / "plain" / "3"
    folder.mkdir(parents=True)
    tensors = {"a": numpy.arange(3_000_000, dtype=numpy.float32), "b": numpy.arange(5, dtype=numpy.int16)}
    save_file(tensors, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", (1_700_000_000, 1_700_000_000))
    origin = f"file://{tmp_path}"
    found = hotstart.load("org/plain@3", origin=origin)
    assert found.report.verification == "none (adopted: digests unknown)"
    assert_same_tensors(found, folder / "model.safetensors")
    some = hotstart.load("org/plain@3", origin=origin, tensors=["b"])
    assert some["b"].tolist() == [0, 1, 2, 3, 4]
    for verify in ("pieces", "full"):
        with pytest.raises(hotstart.CannotVerify, match="adopted rather than published"):
            hotstart.load("org/plain@3", origin=origin, verify=verify)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"framework": "jax"}, "framework='jax': expected 'numpy'"),
        ({"device": "cuda:0"}, "device='cuda:0': expected 'cpu'"),
        ({"verify": "sha256"}, "verify='sha256': expected None, 'none', 'pieces' or 'full'"),
        ({"compression": "gzip"}, "compression='gzip': expected auto, none, zstd or planes"),
        ({"tensors": "logit_scale"}, "tensors='logit_scale': expected a list of names"),
        ({"tensors": ["a"], "verify": "full"}, "a sha256 is of a whole file"),
    ],
)
def test_a_wrong_option_says_what_it_could_be(
    published: Published, options: dict[str, object], message: str
) -> None:
    """Options are checked before anything is fetched, in stream as in load."""
    model = hotstart.open("org/bert@1", origin=published.origin)
    with pytest.raises(hotstart.InvalidOption, match=message):
        model.load(**options)  # type: ignore[arg-type]
    with pytest.raises(hotstart.InvalidOption, match=message):
        model.stream(**options)  # type: ignore[arg-type]
