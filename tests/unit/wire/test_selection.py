"""What a reference loads."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart.wire.selection import INDEX_FILE, Selection, ShardMismatch, WeightsNotFound, select_weights


def version(*paths: str) -> Manifest:
    files = tuple(
        File(path, 100, None, "0" * 64, "application/octet-stream", OriginObject(path, '"e"'))
        for path in sorted(paths)
    )
    return Manifest("org/bert", "7", 0, files)


def unread(path: str) -> bytes:
    raise AssertionError(f"{path} was read")


def select(
    manifest: Manifest, file: str | None = None, weight_map: dict[str, str] | None = None
) -> Selection:
    """Select with an index of shards of this weight_map."""
    return select_weights(manifest, file, lambda _: json.dumps({"weight_map": weight_map}).encode())


def paths(selection: Selection) -> list[str]:
    return [file.path for file in selection.files]


def test_only_file_at_the_root() -> None:
    """Without an index of shards, a version is its only .safetensors at the root, whatever its name."""
    manifest = version("weights.safetensors", "unet/x.safetensors", "config.json")
    selection = select_weights(manifest, None, unread)
    assert (paths(selection), selection.tensor_shards) == (["weights.safetensors"], None)
    selection.check_shard("weights.safetensors", ["anything"])


def test_file_by_name() -> None:
    """A file that the reference names is loaded, wherever it lies, and no index is read."""
    manifest = version("model.safetensors", "unet/x.safetensors", INDEX_FILE)
    assert paths(select_weights(manifest, "unet/x.safetensors", unread)) == ["unet/x.safetensors"]


def test_union_of_shards() -> None:
    """With an index of shards, a version is the union of the shards that it names, and no more."""
    manifest = version("a.safetensors", "b.safetensors", "extra.safetensors", INDEX_FILE)
    selection = select(manifest, None, {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    assert paths(selection) == ["a.safetensors", "b.safetensors"]
    assert selection.tensor_shards == {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}


def test_index_goes_before_a_single_file() -> None:
    """A version that holds both an index of shards and one file is what the index says."""
    manifest = version("model.safetensors", "a.safetensors", INDEX_FILE)
    assert paths(select(manifest, None, {"x": "a.safetensors"})) == ["a.safetensors"]


def test_index_in_a_subfolder() -> None:
    """An index of shards that the reference names is relative to its folder."""
    manifest = version("unet/m.safetensors.index.json", "unet/a.safetensors", "a.safetensors")
    selection = select(manifest, "unet/m.safetensors.index.json", {"x": "a.safetensors"})
    assert paths(selection) == ["unet/a.safetensors"]
    assert selection.tensor_shards == {"x": "unet/a.safetensors"}


@pytest.mark.parametrize(
    ("manifest", "file", "choices", "message"),
    [
        (
            version(),
            None,
            (),
            "0 .safetensors files at its root and no model.safetensors.index.json; the version",
        ),
        (version("config.json"), None, (), "the version holds no .safetensors file"),
        (
            version("a.safetensors", "b.safetensors", "c/d.safetensors"),
            None,
            ("a.safetensors", "b.safetensors", "c/d.safetensors"),
            "2 .safetensors files at its root and no model.safetensors.index.json; name one of\n"
            "  org/bert@7/a.safetensors\n  org/bert@7/b.safetensors\n  org/bert@7/c/d.safetensors",
        ),
        (version("u/a.safetensors"), None, ("u/a.safetensors",), "name one of\n  org/bert@7/u/a.safetensors"),
        (
            version("a.safetensors"),
            "b.safetensors",
            ("a.safetensors",),
            "cannot load org/bert@7/b.safetensors: the version has no such file; name one of\n"
            "  org/bert@7/a.safetensors",
        ),
        (
            version("a.safetensors", "config.json"),
            "config.json",
            ("a.safetensors",),
            "not a .safetensors file",
        ),
    ],
)
def test_nothing_unambiguous(
    manifest: Manifest, file: str | None, choices: tuple[str, ...], message: str
) -> None:
    """Where nothing or not one thing is named, the error lists what can be."""
    with pytest.raises(WeightsNotFound) as caught:
        select_weights(manifest, file, unread)
    assert caught.value.choices == choices
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{}", "weight_map is missing or empty"),
        (b'{"weight_map":{}}', "weight_map is missing or empty"),
        (b'{"weight_map":["a.safetensors"]}', "weight_map: expected dict"),
        (b'{"weight_map":{"x":1}}', "weight_map: expected strings"),
        (
            b'{"weight_map":{"x":"gone.safetensors"}}',
            "tensor 'x': the version lacks its shard gone.safetensors",
        ),
        (b'{"weight_map":{"x":"../a.safetensors"}}', "tensor 'x': .* segments . and .. are not allowed"),
        (b'{"weight_map":{"x":"config.json"}}', "shard config.json is not a .safetensors file"),
        (b'{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}', "key 'x' stands twice"),
    ],
)
def test_malformed_index(data: bytes, reason: str) -> None:
    """An index of shards that is malformed or names a shard that is not there says which tensor."""
    manifest = version("a.safetensors", "b.safetensors", "config.json", INDEX_FILE)
    with pytest.raises(FormatError, match=reason) as caught:
        select_weights(manifest, None, lambda _: data)
    assert INDEX_FILE in caught.value.what


SHARDS = Selection((), {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})


def test_shards_that_agree() -> None:
    """A shard that holds exactly what the index puts there is fine."""
    SHARDS.check_shard("a.safetensors", ["y", "x"])
    SHARDS.check_shard("b.safetensors", {"z": None})


@pytest.mark.parametrize(
    ("shard", "names", "tensors", "message"),
    [
        (
            "a.safetensors",
            ["x"],
            ("y",),
            "shard a.safetensors lacks tensors that the index of shards puts there",
        ),
        ("b.safetensors", [], ("z",), "shard b.safetensors lacks tensors"),
        (
            "a.safetensors",
            ["x", "y", "w"],
            ("w",),
            "holds tensors that the index of shards does not know: 'w'",
        ),
        ("a.safetensors", ["x", "y", "z"], ("z",), "that the index of shards puts in b.safetensors: 'z'"),
    ],
)
def test_shards_that_disagree(shard: str, names: list[str], tensors: tuple[str, ...], message: str) -> None:
    """A missing, extra or duplicate tensor is an error that names the shard and the tensor."""
    with pytest.raises(ShardMismatch) as caught:
        SHARDS.check_shard(shard, names)
    assert (caught.value.shard, caught.value.tensors) == (shard, tensors)
    assert message in str(caught.value)
