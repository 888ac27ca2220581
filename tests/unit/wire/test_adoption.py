"""The rules of adoption: layouts, age, shards, digests."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.adoption import (
    ADOPTION_AGE_MS,
    AdoptableFile,
    Layout,
    Match,
    adopt_files,
    fingerprint,
    is_reserved,
    listing_version,
    missing_shard,
    newest,
    too_young,
    weights_indices,
    without_twins,
)
from hotstart.wire.digests import adopted_id
from hotstart.wire.errors import FormatError
from hotstart.wire.listing import ListedObject


def file(path: str, size: int = 1, etag: str = '"e"', last_modified: int = 1_000) -> AdoptableFile:
    return AdoptableFile(path, ListedObject(f"org/bert/7/{path}", size, etag, last_modified))


@pytest.mark.parametrize(
    ("template", "key", "match"),
    [
        ("{model}/{version}/{file}", "org/bert/7/config.json", Match("org/bert", "7", "config.json")),
        ("{model}/{version}/{file}", "org/bert/7/unet/x.bin", Match("org/bert", "7", "unet/x.bin")),
        ("{model}/{file}", "org/bert/config.json", Match("org/bert", None, "config.json")),
        ("{model}/{file}", "org/bert/unet/x.bin", Match("org/bert", None, "unet/x.bin")),
        ("{name}/{version}/{file}", "bert/7/a b.bin", Match("library/bert", "7", "a b.bin")),
        ("{name}/{file}", "bert/config.json", Match("library/bert", None, "config.json")),
        ("models/{model}/v/{version}/data/{file}", "models/o/b/v/7/data/x", Match("o/b", "7", "x")),
    ],
)
def test_a_key_means_model_version_and_file(template: str, key: str, match: Match) -> None:
    """A layout tells what every part of a key means; one-segment models are of library/."""
    assert Layout.parse(template).match(key) == match


@pytest.mark.parametrize(
    ("template", "key", "reason"),
    [
        ("{model}/{version}/{file}", "org/bert/config.json", "lies above"),
        ("{model}/{version}/{file}", "README.md", "lies above"),
        ("{model}/{version}/{file}", "org/my bert/7/x", "a model is"),
        ("{model}/{version}/{file}", "org/bert/latest/x", "computed"),
        ("{model}/{version}/{file}", "org/bert/" + "a" * 40 + "/x", "40 hex digits"),
        ("{model}/{version}/{file}", "org/bert/7/a@b", "not allowed"),
        ("{model}/{version}/{file}", "org/bert/7//x", "empty segment"),
        ("{model}/{version}/{file}", "org/bert/7/../x", r"\.\."),
        ("{model}/{version}/{file}", "org/bert/7/bad-\\xff", "not allowed"),
        ("{model}/{version}/{file}", "org/bert/7/u\u0308", "normal form C"),
        ("models/{model}/{version}/{file}", "other/org/bert/7/x", "does not fit"),
    ],
)
def test_a_key_that_means_nothing_has_a_reason(template: str, key: str, reason: str) -> None:
    """A key that does not fit means nothing, and why can be told."""
    layout = Layout.parse(template)
    assert layout.match(key) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(layout.fault(key))


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{file}",
        "{model}",
        "{model}/{version}",
        "{version}/{model}/{file}",
        "{model}/{model}/{file}",
        "{model}/{name}/{file}",
        "{model}/{version}/{version}/{file}",
        "{model}/{file}/{version}",
        "{model}/v{version}/{file}",
        "{org}/{model}/{file}",
        "/{model}/{file}",
        "../{model}/{file}",
        "{model}//{file}",
        ".hotstart/{model}/{file}",
    ],
)
def test_a_wrong_layout_is_refused(template: str) -> None:
    """A template that lacks, doubles or misplaces a part is an error that shows a right one."""
    with pytest.raises(FormatError, match=r"as in \{model\}/\{version\}/\{file\}"):
        Layout.parse(template)


def test_the_default_layout_is_that_of_published_versions() -> None:
    """Without a template adopted folders lie where published ones do."""
    assert Layout() == Layout.parse(Layout.DEFAULT)
    assert Layout().is_native
    assert not Layout.parse("{name}/{version}/{file}").is_native
    assert not Layout.parse("{model}/{file}").has_version


def test_prefixes_follow_the_layout() -> None:
    """The prefixes of a model and a version are those that match gives back."""
    layout = Layout.parse("models/{model}/v/{version}/data/{file}")
    assert layout.model_prefix("org/bert") == "models/org/bert/v/"
    assert layout.version_prefix("org/bert", "7") == "models/org/bert/v/7/data/"
    assert layout.model_levels == ("models", "{org}", "{name}")
    assert Layout.parse("{model}/{file}").model_prefix("org/bert") == "org/bert/"
    assert Layout.parse("{name}/{file}").model_prefix("library/bert") == "bert/"


def test_a_layout_of_single_names_has_no_other_organisations() -> None:
    """Where keys have one segment for a model, org/bert cannot lie."""
    assert Layout.parse("{name}/{version}/{file}").model_prefix("org/bert") is None
    assert Layout.parse("{name}/{version}/{file}").version_prefix("org/bert", "7") is None


@pytest.mark.parametrize("key", ["org/bert/.hotstart/index.json", ".hotstart-lock", "a/.hotstart-tmp-1/b"])
def test_reserved_keys_are_known(key: str) -> None:
    """Every key with a segment that begins .hotstart is ours."""
    assert is_reserved(key)
    assert not is_reserved("org/hotstart/7/x.hotstart")


def test_age_counts_from_the_newest_object() -> None:
    """A folder is adopted from the very millisecond that its newest object is a minute old."""
    files = [file("a", last_modified=1_000), file("b", last_modified=5_000)]
    assert newest(files) == 5_000
    assert too_young(files, 5_000 + ADOPTION_AGE_MS) is None
    assert (
        too_young(files, 5_000 + ADOPTION_AGE_MS - 1)
        == "newest object is 59 s old: adopted once that is 60 s"
    )
    assert too_young(files, 5_000) == "newest object is 0 s old: adopted once that is 60 s"


def test_an_object_of_the_future_is_told_as_such() -> None:
    """Where clocks disagree, or a date was made up, the reason says so."""
    files = [file("a", last_modified=7_205_000)]
    assert (
        too_young(files, 5_000)
        == "newest object is dated 7200 s ahead of the clock here: adopted once that is 60 s"
    )


def test_twins_are_no_files() -> None:
    """A twin beside its file is set apart; a .zst without one, or of another file, is a file like others."""
    paths = [
        "a.safetensors",
        "a.safetensors.zst",
        "a.safetensors.zsp",
        "b.safetensors.zst",
        "c.json",
        "c.json.zst",
    ]
    plain, twins = without_twins([file(path) for path in paths])
    assert [item.path for item in plain] == ["a.safetensors", "b.safetensors.zst", "c.json", "c.json.zst"]
    assert [item.path for item in twins] == ["a.safetensors.zst", "a.safetensors.zsp"]


def test_only_indices_of_weights_are_read() -> None:
    """Files that end .index.json may name shards."""
    files = [
        file("model.safetensors.index.json"),
        file("index.json"),
        file("unet/x.index.json"),
        file("a.json"),
    ]
    assert [item.path for item in weights_indices(files)] == [
        "model.safetensors.index.json",
        "unet/x.index.json",
    ]


@pytest.mark.parametrize(
    ("path", "document", "reason"),
    [
        ("m.index.json", {"weight_map": {"a": "s1", "b": "s2", "c": "s1"}}, None),
        ("m.index.json", {"weight_map": {}}, None),
        ("m.index.json", {"something": "else"}, None),
        ("m.index.json", {"weight_map": {"a": "s3"}}, "s3, which m.index.json names, is not there"),
        ("m.index.json", {"weight_map": {"a": "../s1"}}, "../s1, which m.index.json names, is not there"),
        (
            "unet/m.index.json",
            {"weight_map": {"a": "s1"}},
            "unet/s1, which unet/m.index.json names, is not there",
        ),
        ("unet/m.index.json", {"weight_map": {"a": "u1"}}, None),
        ("m.index.json", {"weight_map": {"a": 1}}, "malformed m.index.json: weight_map: expected strings"),
        ("m.index.json", {"weight_map": []}, "malformed m.index.json: weight_map: expected dict, found list"),
        ("m.index.json", [], "malformed m.index.json: expected a JSON object, found list"),
    ],
)
def test_every_shard_must_be_there(path: str, document: object, reason: str | None) -> None:
    """Shards that an index of weights names lie beside it; a missing one, or a broken index, is named."""
    files = [file("s1"), file("s2"), file("unet/u1")]
    assert missing_shard(file(path), json.dumps(document).encode(), files) == reason


def test_a_listing_has_a_version_of_its_own() -> None:
    """The digest depends on names, ETags and sizes alone, not on order or times."""
    one, two = file("a", etag='"1"'), file("b", etag='"2"')
    version = listing_version([one, two])
    assert version == listing_version([two, one])
    assert version == listing_version([file("a", etag='"1"', last_modified=99), two])
    assert version != listing_version([one])
    assert version != listing_version([file("a", etag='"3"'), two])
    assert version != listing_version([file("a", etag='"1"', size=2), two])
    assert len(version) == 16
    assert Layout().match(f"org/bert/{version}/x") is not None


def test_a_fingerprint_sees_every_change() -> None:
    """It changes with names, ETags, sizes and times, those of twins documents included."""
    other = ListedObject("org/bert/7/.hotstart/twins-zst.json", 1, '"t"', 5)
    mark = fingerprint([file("a")], [])
    assert mark == fingerprint([file("a")], [])
    assert len({mark, fingerprint([file("a")], [other]), fingerprint([file("a", last_modified=2)], [])}) == 3


def test_adopted_files_are_known_by_their_objects() -> None:
    """A file's content id comes from endpoint, bucket, whole key, ETag and size; no digest of it is known."""
    (config, weights) = adopt_files(
        [file("model.safetensors", size=9, etag='"w"'), file("config.json", size=2)],
        "https://s3",
        "bucket",
        "p/",
    )
    assert (config.path, weights.path) == ("config.json", "model.safetensors")
    assert weights.id == adopted_id("https://s3", "bucket", "p/org/bert/7/model.safetensors", '"w"', 9)
    assert (weights.origin.key, weights.origin.etag) == ("org/bert/7/model.safetensors", '"w"')
    assert (weights.sha256, weights.pieces, weights.header_length, weights.twins) == (None, None, None, ())
    assert (config.media_type, weights.media_type) == ("application/json", "application/octet-stream")
