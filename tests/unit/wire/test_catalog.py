"""Reading an origin's tree, with trees spelled out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

import pytest

from hotstart.wire.adoption import ADOPTION_AGE_MS, Ignored, Layout
from hotstart.wire.catalog import (
    RELIST_MS,
    UNFINISHED,
    Catalog,
    KnownIndex,
    ListedObject,
    Listing,
    ListObjects,
    ObjectBytes,
    Plan,
    ReadObject,
)
from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.manifest import File, Manifest, OriginObject, Twin
from hotstart.wire.pieces import Pieces
from hotstart.wire.twins import AddedTwin, AddedTwins

T = TypeVar("T")
UPLOADED = 1_700_000_000_000
NOW = UPLOADED + ADOPTION_AGE_MS
MODEL = "org/bert"


class Tree:
    """An origin in memory that answers plans and remembers what they asked."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.objects: dict[str, bytes] = {}
        self.times: dict[str, int] = {}
        self.asked: list[ReadObject | ListObjects] = []
        for key, data in objects.items():
            self.put(key, data)

    def put(self, key: str, data: bytes, last_modified: int = UPLOADED) -> None:
        self.objects[key] = data
        self.times[key] = last_modified

    def etag(self, key: str) -> str:
        return f'"{sha256_id(self.objects[key])[:8]}"'

    def perform(self, plan: Plan[T]) -> T:
        answer: ObjectBytes | Listing | None = None
        self.asked = []
        while True:
            try:
                request = plan.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            self.asked.append(request)
            answer = self._list(request) if isinstance(request, ListObjects) else self._read(request)

    def _read(self, request: ReadObject) -> ObjectBytes | None:
        data = self.objects.get(request.key)
        if data is None:
            return None
        etag = self.etag(request.key)
        return ObjectBytes(None if etag == request.known_etag else data, etag, self.times[request.key])

    def _list(self, request: ListObjects) -> Listing:
        assert not request.prefix or request.prefix.endswith("/")
        objects: list[ListedObject] = []
        folders: set[str] = set()
        for key in sorted(self.objects):
            if not key.startswith(request.prefix):
                continue
            head, slash, _ = key[len(request.prefix) :].partition("/")
            if slash and not request.recursive:
                folders.add(f"{request.prefix}{head}/")
            else:
                objects.append(ListedObject(key, len(self.objects[key]), self.etag(key), self.times[key]))
        return Listing(tuple(objects), tuple(sorted(folders)))


def catalog(template: str = Layout.DEFAULT) -> Catalog:
    return Catalog(Layout.parse(template), "https://s3", "bucket", "p/")


def manifest(version: str, published_at: int, model: str = MODEL) -> bytes:
    data = File("config.json", 2, None, "ab" * 32, "application/json", OriginObject("k", '"e"'))
    return Manifest(model, version, published_at, (data,)).dump()


def published(
    *versions: tuple[str, int], aliases: Mapping[str, str] | None = None, model: str = MODEL
) -> bytes:
    entries = tuple(IndexEntry(version, at) for version, at in versions)
    return Index(model, 3, entries, aliases or {}).dump()


def versions(known: KnownIndex | None) -> list[str]:
    assert known is not None
    return [entry.version for entry in known.index.versions]


INDEX = f"{MODEL}/.hotstart/index.json"


def test_an_empty_origin_has_no_models() -> None:
    """No objects mean no models, no index, no manifest; nothing of that is an error."""
    tree = Tree({})
    assert tree.perform(catalog().models()) == ()
    assert tree.perform(catalog().strays()) == ()
    assert tree.perform(catalog().index(MODEL, NOW)) is None
    assert tree.perform(catalog().manifest(MODEL, "7", NOW)) is None
    survey = tree.perform(catalog().survey(MODEL, NOW))
    assert (survey.index, survey.adopted, survey.ignored) == (None, frozenset(), ())


def test_models_are_the_folders_two_levels_down() -> None:
    """Models come sorted; what lies above them, and names that are none, are strays with a reason."""
    tree = Tree(
        {
            "README.md": b"",
            ".hotstart-lock": b"",
            "org/notes.txt": b"",
            "org/bert/7/x": b"",
            "org/": b"",
            "org/.hotstart/y": b"",
            "library/gpt/.hotstart/index.json": b"",
            "bad name/bert/7/x": b"",
            "org/.hidden/7/x": b"",
        }
    )
    assert tree.perform(catalog().models()) == ("library/gpt", "org/bert")
    strays = tree.perform(catalog().strays())
    assert [item.key for item in strays] == ["README.md", "bad name/", "org/.hidden/", "org/notes.txt"]
    assert strays[0].reason == "lies above the models: expected {model}/{version}/{file}"
    assert "1 to 96 of" in strays[1].reason


def test_the_index_is_read_as_published() -> None:
    """Versions and aliases of index.json come out as they are."""
    tree = Tree(
        {
            INDEX: published(("1", 10), ("2", 20), aliases={"prod": "1"}),
            "org/bert/1/x": b"",
            "org/bert/2/x": b"",
        }
    )
    known = tree.perform(catalog().index(MODEL, NOW))
    assert known is not None
    assert versions(known) == ["1", "2"]
    assert (known.index.resolve(None), known.index.resolve("latest"), known.index.serial) == ("1", "2", 3)
    assert known.etag == tree.etag(INDEX)
    assert tree.asked == [ReadObject(INDEX), ListObjects("org/bert/", recursive=False)]


def test_folders_of_indexed_versions_are_not_looked_at() -> None:
    """An indexed version needs no folder: whether its files are there is the manifest's concern."""
    tree = Tree({INDEX: published(("1", 10))})
    assert versions(tree.perform(catalog().index(MODEL, NOW))) == ["1"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"format":2}', published(("1", 1), model="org/other")]
)
def test_a_broken_index_is_an_error(data: bytes) -> None:
    """A malformed index is never taken for "no such model"."""
    tree = Tree({INDEX: data, "org/bert/7/x": b""})
    with pytest.raises(FormatError, match="index"):
        tree.perform(catalog().index(MODEL, NOW))


def test_an_unchanged_index_costs_one_conditional_read() -> None:
    """Asked again within a minute, an index that has not changed is answered from what is known."""
    tree = Tree({INDEX: published(("1", 10)), "org/bert/2/x": b"plain"})
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(known) == ["1", "2"]
    assert tree.perform(catalog().index(MODEL, NOW + 1, known)) is known
    assert tree.asked == [ReadObject(INDEX, tree.etag(INDEX))]


def test_folders_are_listed_again_after_a_minute() -> None:
    """A folder that came meanwhile is found once the last listing is a minute old, or the clock went back."""
    tree = Tree({INDEX: published(("1", 10))})
    known = tree.perform(catalog().index(MODEL, NOW))
    tree.put("org/bert/2/x", b"plain", UPLOADED - 1)
    assert versions(tree.perform(catalog().index(MODEL, NOW + RELIST_MS - 1, known))) == ["1"]
    assert versions(tree.perform(catalog().index(MODEL, NOW + RELIST_MS, known))) == ["1", "2"]
    assert versions(tree.perform(catalog().index(MODEL, NOW - 1, known))) == ["1", "2"]


def test_a_changed_index_is_read_at_once() -> None:
    """A publish shows with the next question, whenever the folders were listed."""
    tree = Tree({INDEX: published(("1", 10))})
    known = tree.perform(catalog().index(MODEL, NOW))
    tree.put(INDEX, published(("1", 10), ("2", 20)))
    assert versions(tree.perform(catalog().index(MODEL, NOW + 1, known))) == ["1", "2"]


def test_an_index_that_went_away_is_gone() -> None:
    """After index.json was deleted a model without folders does not exist."""
    tree = Tree({INDEX: published(("1", 10))})
    known = tree.perform(catalog().index(MODEL, NOW))
    del tree.objects[INDEX]
    assert tree.perform(catalog().index(MODEL, NOW + 1, known)) is None


@pytest.mark.parametrize("indexed", [True, False])
def test_a_manifest_makes_a_version(indexed: bool) -> None:
    """A version whose publisher died before the index was moved exists, in the order of its manifest."""
    data = manifest("2", 15)
    tree = Tree({"org/bert/2/.hotstart/begin.json": b"{}", "org/bert/2/.hotstart/manifest.json": data})
    if indexed:
        tree.put(INDEX, published(("1", 10), ("3", 20)))
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(known) == (["1", "2", "3"] if indexed else ["2"])
    assert known is not None
    assert known.index.entry("2") == IndexEntry("2", 15, sha256_id(data))
    assert tree.perform(catalog().manifest(MODEL, "2", NOW)) == data


def test_a_manifest_that_was_read_is_not_read_again() -> None:
    """Of a version that is not indexed yet the manifest is read once."""
    tree = Tree({"org/bert/2/.hotstart/manifest.json": manifest("2", 15)})
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(tree.perform(catalog().index(MODEL, NOW + RELIST_MS, known))) == ["2"]
    assert tree.asked == [ReadObject(INDEX), ListObjects("org/bert/", recursive=True)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "malformed manifest"),
        (manifest("9", 1), "is of org/bert@9"),
        (manifest("2", 1, "o/b"), "is of o/b@2"),
    ],
)
def test_a_wrong_manifest_in_a_folder_is_ignored(data: bytes, reason: str) -> None:
    """A broken or copied manifest that no index names hides its own folder only, and is reported."""
    tree = Tree(
        {INDEX: published(("1", 10)), "org/bert/2/.hotstart/manifest.json": data, "org/bert/2/x": b""}
    )
    survey = tree.perform(catalog().survey(MODEL, NOW))
    assert survey.index is not None
    assert [entry.version for entry in survey.index.versions] == ["1"]
    (ignored,) = survey.ignored
    assert ignored.key == "org/bert/2/.hotstart/manifest.json"
    assert reason in ignored.reason


@pytest.mark.parametrize("indexed", [True, False])
def test_a_claim_without_a_manifest_is_no_version(indexed: bool) -> None:
    """A publish that was broken off is invisible however old, and the survey says what to do about it."""
    tree = Tree({"org/bert/2/.hotstart/begin.json": b"{}", "org/bert/2/model.safetensors": b"weights"})
    if indexed:
        tree.put(INDEX, published(("1", 10)))
    known = tree.perform(catalog().index(MODEL, NOW * 2))
    assert (versions(known) if known else []) == (["1"] if indexed else [])
    assert tree.perform(catalog().manifest(MODEL, "2", NOW * 2)) is None
    survey = tree.perform(catalog().survey(MODEL, NOW * 2))
    assert survey.ignored == (Ignored("org/bert/2/", UNFINISHED),)


def test_a_folder_of_plain_files_is_adopted() -> None:
    """It becomes a version of the time of its newest object, and its manifest follows from the listing."""
    tree = Tree({INDEX: published(("1", 10))})
    tree.put("org/bert/2/model.safetensors", b"weights", UPLOADED - 5)
    tree.put("org/bert/2/unet/config.json", b"{}", UPLOADED)
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(known) == ["1", "2"]
    data = tree.perform(catalog().manifest(MODEL, "2", NOW))
    assert data is not None
    assert known is not None
    assert known.index.entry("2") == IndexEntry("2", UPLOADED, sha256_id(data))
    adopted = Manifest.parse(data)
    assert (adopted.model, adopted.version, adopted.published_at) == (MODEL, "2", UPLOADED)
    assert [(file.path, file.size, file.sha256) for file in adopted.files] == [
        ("model.safetensors", 7, None),
        ("unet/config.json", 2, None),
    ]
    assert adopted.files[0].origin == OriginObject(
        "org/bert/2/model.safetensors", tree.etag("org/bert/2/model.safetensors")
    )
    assert tree.perform(catalog().manifest(MODEL, "2", NOW * 2)) == data
    assert tree.perform(catalog().survey(MODEL, NOW)).adopted == {"2"}


def test_adopted_versions_come_in_the_order_of_their_times() -> None:
    """Not names but times order versions; names in natural order decide between equal times."""
    tree = Tree({})
    for version, at in (("10", 5), ("9", 5), ("1", 7), ("2", 3)):
        tree.put(f"org/bert/{version}/x", b"", at)
    assert versions(tree.perform(catalog().index(MODEL, NOW))) == ["2", "9", "10", "1"]


def test_a_young_folder_waits() -> None:
    """A folder is adopted when its newest object is a minute old, and is looked at again just then."""
    tree = Tree({INDEX: published(("1", 10)), "org/bert/2/a": b""})
    tree.put("org/bert/2/b", b"", UPLOADED + 30_000)
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(known) == ["1"]
    assert tree.perform(catalog().manifest(MODEL, "2", NOW)) is None
    (ignored,) = tree.perform(catalog().survey(MODEL, NOW)).ignored
    assert ignored == Ignored("org/bert/2/", "newest object is 30 s old: adopted once that is 60 s")
    assert versions(tree.perform(catalog().index(MODEL, NOW + 29_999, known))) == ["1"]
    assert versions(tree.perform(catalog().index(MODEL, NOW + 30_000, known))) == ["1", "2"]


def test_an_adopted_folder_that_is_written_to_stays_a_version() -> None:
    """While files of an adopted version are replaced its old state is told; a minute later the new one."""
    tree = Tree({"org/bert/2/a": b"old"})
    known = tree.perform(catalog().index(MODEL, NOW))
    tree.put("org/bert/2/a", b"new", NOW)
    during = tree.perform(catalog().index(MODEL, NOW + RELIST_MS - 1, known))
    assert during is known
    tree.put("org/bert/2/b", b"more", NOW + 30_000)
    during = tree.perform(catalog().index(MODEL, NOW + RELIST_MS, known))
    assert during is not None
    assert known is not None
    assert during.index == known.index
    after = tree.perform(catalog().index(MODEL, NOW + 30_000 + ADOPTION_AGE_MS, during))
    assert after is not None
    entry = after.index.entry("2")
    assert entry is not None
    assert (entry.published_at, entry.manifest_id == known.index.versions[0].manifest_id) == (
        NOW + 30_000,
        False,
    )


def shard_index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {str(n): shard for n, shard in enumerate(shards)}}).encode()


def test_a_folder_without_all_its_shards_waits() -> None:
    """A folder whose index of weights names a shard that is not there is not adopted; the shard is named."""
    tree = Tree({"org/bert/2/model.safetensors.index.json": shard_index("s1", "s2"), "org/bert/2/s1": b"1"})
    assert tree.perform(catalog().index(MODEL, NOW)) is None
    assert tree.perform(catalog().manifest(MODEL, "2", NOW)) is None
    (ignored,) = tree.perform(catalog().survey(MODEL, NOW)).ignored
    assert ignored.key == "org/bert/2/"
    assert "s2, which model.safetensors.index.json names" in ignored.reason
    tree.put("org/bert/2/s2", b"2")
    assert versions(tree.perform(catalog().index(MODEL, NOW))) == ["2"]
    assert tree.perform(catalog().manifest(MODEL, "2", NOW)) is not None


def test_an_adopted_folder_is_not_read_again() -> None:
    """Indices of weights of a folder that has not changed are read once."""
    tree = Tree({"org/bert/2/m.index.json": shard_index("s1"), "org/bert/2/s1": b"1"})
    known = tree.perform(catalog().index(MODEL, NOW))
    assert versions(tree.perform(catalog().index(MODEL, NOW + RELIST_MS, known))) == ["2"]
    assert ReadObject("org/bert/2/m.index.json") not in tree.asked


def test_what_cannot_be_a_file_is_ignored_with_a_reason() -> None:
    """Keys that are no valid references do not count, nor do folder markers; the rest is adopted."""
    tree = Tree(
        {
            "org/bert/": b"",
            "org/bert/2/": b"",
            "org/bert/2/good": b"",
            "org/bert/2/b@d": b"",
            "org/bert/loose.txt": b"",
            "org/bert/latest/x": b"",
            "org/bert/2/.hotstart-tmp-1": b"",
            "org/bert/2/.hotstart/of-a-later-format.json": b"",
            "org/bert/2/.hotstartrc": b"",
            "org/bert/2/sub/.hotstart/x": b"",
        }
    )
    survey = tree.perform(catalog().survey(MODEL, NOW))
    assert survey.adopted == {"2"}
    assert [item.key for item in survey.ignored] == [
        "org/bert/2/.hotstartrc",
        "org/bert/2/b@d",
        "org/bert/2/sub/.hotstart/x",
        "org/bert/latest/x",
        "org/bert/loose.txt",
    ]
    manifest_bytes = tree.perform(catalog().manifest(MODEL, "2", NOW))
    assert manifest_bytes is not None
    assert [file.path for file in Manifest.parse(manifest_bytes).files] == ["good"]


@pytest.mark.parametrize("version", ["latest", "a" * 40, "..", "", "7/8", ".hotstart"])
def test_a_version_that_cannot_be_has_no_manifest(version: str) -> None:
    """Nothing is asked of the origin for a name that no version can have."""
    tree = Tree({})
    assert tree.perform(catalog().manifest(MODEL, version, NOW)) is None
    assert tree.asked == []


def test_a_folder_with_the_name_of_an_alias_is_ignored() -> None:
    """A name never means both an alias and a version."""
    tree = Tree({INDEX: published(("1", 10), aliases={"prod": "1"}), "org/bert/prod/x": b""})
    survey = tree.perform(catalog().survey(MODEL, NOW))
    assert survey.index is not None
    assert survey.index.resolve("prod") == "1"
    assert [item.key for item in survey.ignored] == ["org/bert/prod/"]
    assert "alias" in survey.ignored[0].reason


def twins_document(tree: Tree, of: bytes | None = None) -> AddedTwins:
    data = tree.perform(catalog().manifest(MODEL, "2", NOW))
    assert data is not None
    (file,) = Manifest.parse(data).files
    origin = OriginObject("org/bert/2/m.safetensors.zst", '"z"')
    twin = Twin(".zst", 5, "cd" * 32, origin, Pieces((7,), b""), b"table")
    file_id = file.id if of is None else sha256_id(of)
    return AddedTwins(MODEL, "2", ".zst", (AddedTwin("m.safetensors", file_id, twin),))


def test_twins_that_were_added_are_merged() -> None:
    """A twins document adds to an adopted manifest; the twins' own objects change neither order nor files."""
    tree = Tree({"org/bert/2/m.safetensors": b"weights"})
    document = twins_document(tree)
    tree.put("org/bert/2/m.safetensors.zst", b"12345", NOW)
    tree.put("org/bert/2/.hotstart/twins-zst.json", document.dump(), NOW)
    known = tree.perform(catalog().index(MODEL, NOW))
    data = tree.perform(catalog().manifest(MODEL, "2", NOW))
    assert data is not None
    assert known is not None
    assert known.index.entry("2") == IndexEntry("2", UPLOADED, sha256_id(data))
    (file,) = Manifest.parse(data).files
    assert file.twins == (document.twins[0].twin,)
    assert tree.perform(catalog().survey(MODEL, NOW)).ignored == ()


def test_twins_of_other_bytes_do_not_count() -> None:
    """After the file was replaced the twins made from the old one are not offered."""
    tree = Tree({"org/bert/2/m.safetensors": b"weights"})
    document = twins_document(tree, of=b"other")
    tree.put("org/bert/2/m.safetensors.zst", b"12345")
    tree.put("org/bert/2/.hotstart/twins-zst.json", document.dump())
    data = tree.perform(catalog().manifest(MODEL, "2", NOW))
    assert data is not None
    assert Manifest.parse(data).files[0].twins == ()
    (ignored,) = tree.perform(catalog().survey(MODEL, NOW)).ignored
    assert ignored.key == "org/bert/2/m.safetensors.zst"


def test_a_broken_twins_document_takes_no_version_away() -> None:
    """A malformed twins document is reported, and the version is there without twins."""
    tree = Tree({"org/bert/2/m.safetensors": b"weights", "org/bert/2/.hotstart/twins-zst.json": b"{"})
    survey = tree.perform(catalog().survey(MODEL, NOW))
    assert survey.adopted == {"2"}
    assert [item.key for item in survey.ignored] == ["org/bert/2/.hotstart/twins-zst.json"]
    assert tree.perform(catalog().manifest(MODEL, "2", NOW)) is not None


def test_another_layout_is_read_beside_the_published_tree() -> None:
    """Folders elsewhere are adopted by their layout; published versions are found where they always are."""
    tree = Tree(
        {
            INDEX: published(("1", 10)),
            "org/bert/2/.hotstart/begin.json": b"{}",
            "org/bert/3/.hotstart/manifest.json": manifest("3", 30),
            "store/org/bert/4/data/x": b"plain",
            "store/org/bert/4/other/y": b"plain",
            "store/org/gpt/1/data/x": b"plain",
        }
    )
    other = catalog("store/{model}/{version}/data/{file}")
    assert tree.perform(other.models()) == ("org/bert", "org/gpt")
    survey = tree.perform(other.survey(MODEL, NOW))
    assert survey.index is not None
    assert [entry.version for entry in survey.index.versions] == ["1", "3", "4"]
    assert survey.adopted == {"4"}
    assert [item.key for item in survey.ignored] == ["org/bert/2/", "store/org/bert/4/other/y"]
    data = tree.perform(other.manifest(MODEL, "4", NOW))
    assert data is not None
    assert [file.origin.key for file in Manifest.parse(data).files] == ["store/org/bert/4/data/x"]
    assert tree.perform(other.manifest(MODEL, "3", NOW)) == manifest("3", 30)
    assert tree.perform(other.manifest(MODEL, "2", NOW)) is None


def test_models_of_one_segment_are_of_the_library() -> None:
    """Under a layout of single names bert is library/bert; others have published versions only."""
    tree = Tree({"bert/7/config.json": b"{}", INDEX: published(("1", 10))})
    single = catalog("{name}/{version}/{file}")
    assert tree.perform(single.models()) == ("library/bert", "library/org", "org/bert")
    assert versions(tree.perform(single.index("library/bert", NOW))) == ["7"]
    assert tree.perform(single.manifest("library/bert", "7", NOW)) is not None
    assert versions(tree.perform(single.index(MODEL, NOW))) == ["1"]


def test_a_prefix_that_is_overwritten_has_the_version_of_its_listing() -> None:
    """Without versions in keys the listing's digest is the version, and the only one with a manifest."""
    tree = Tree({"org/bert/config.json": b"{}", "org/bert/unet/x": b"1"})
    flat = catalog("{model}/{file}")
    assert tree.perform(flat.models()) == (MODEL,)
    known = tree.perform(flat.index(MODEL, NOW))
    (version,) = versions(known)
    data = tree.perform(flat.manifest(MODEL, version, NOW))
    assert data is not None
    assert [file.path for file in Manifest.parse(data).files] == ["config.json", "unet/x"]
    assert tree.perform(flat.manifest(MODEL, "7", NOW)) is None

    tree.put("org/bert/config.json", b"{new}", NOW)
    during = tree.perform(flat.index(MODEL, NOW + ADOPTION_AGE_MS - 1, known))
    assert versions(during) == [version]
    later = NOW + ADOPTION_AGE_MS
    (new,) = versions(tree.perform(flat.index(MODEL, later, during)))
    assert new != version
    assert tree.perform(flat.manifest(MODEL, version, later)) is None
    assert tree.perform(flat.manifest(MODEL, new, later)) is not None


def test_published_versions_amid_an_overwritten_prefix_are_no_files() -> None:
    """Where versions are published below an adopted prefix each is read for what it is."""
    tree = Tree(
        {
            "org/bert/config.json": b"{}",
            INDEX: published(("7", UPLOADED + 1)),
            "org/bert/7/.hotstart/manifest.json": manifest("7", UPLOADED + 1),
            "org/bert/7/model.safetensors": b"weights",
        }
    )
    flat = catalog("{model}/{file}")
    adopted, seven = versions(tree.perform(flat.index(MODEL, NOW)))
    assert seven == "7"
    data = tree.perform(flat.manifest(MODEL, adopted, NOW))
    assert data is not None
    assert [file.path for file in Manifest.parse(data).files] == ["config.json"]
