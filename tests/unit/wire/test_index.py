"""A model's index: order, aliases, and the changes that a compare-and-swap stores."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.errors import FormatError, InvalidReference
from hotstart.wire.index import AliasClash, Index, IndexEntry, natural_key, version_order


def index(*versions: str, aliases: dict[str, str] | None = None) -> Index:
    """Return an index whose versions were published one second apart, in this order."""
    entries = tuple(
        IndexEntry(version, 1000 * number, f"{number:064x}") for number, version in enumerate(versions, 1)
    )
    return Index("org/bert", 3, entries, aliases or {})


def test_natural_order() -> None:
    """Runs of digits count as numbers, whatever their length."""
    names = ["v9", "v10", "1.2", "1.10", "v9a", "a", "10", "9", "v1" + "0" * 90]
    ordered = ["1.2", "1.10", "9", "10", "a", "v9", "v9a", "v10", "v1" + "0" * 90]
    assert sorted(names, key=natural_key) == ordered


def test_order_of_versions() -> None:
    """Versions are ordered by time, then naturally, then by spelling: a total order."""
    entries = [IndexEntry("v10", 5), IndexEntry("v9", 5), IndexEntry("v09", 5), IndexEntry("z", 4)]
    assert [entry.version for entry in sorted(entries, key=version_order)] == ["z", "v09", "v9", "v10"]


@pytest.mark.parametrize(
    ("aliases", "selector", "version"),
    [
        ({}, None, "2"),
        ({}, "main", "2"),
        ({}, "latest", "2"),
        ({}, "1", "1"),
        ({}, "3", None),
        ({}, "prod", None),
        ({"prod": "1"}, None, "1"),
        ({"prod": "1"}, "main", "1"),
        ({"prod": "1"}, "prod", "1"),
        ({"prod": "1"}, "latest", "2"),
        ({"canary": "1"}, None, "2"),
        ({"prod": "gone"}, None, None),
        ({"prod": "gone"}, "prod", None),
    ],
)
def test_resolve(aliases: dict[str, str], selector: str | None, version: str | None) -> None:
    """No selector and main mean prod if there is one, else latest; other names mean themselves."""
    assert index("1", "2", aliases=aliases).resolve(selector) == version


def test_resolve_in_an_empty_index() -> None:
    """A model without versions resolves to nothing."""
    assert Index("org/bert").resolve(None) is None
    assert Index("org/bert").latest() is None


def test_publishing_never_goes_back_in_time() -> None:
    """A version is newer than all before it, also when the publisher's clock is behind."""
    before = index("1", "2")
    after = before.with_version(IndexEntry("0", 5))
    assert after.latest() == "0"
    assert after.versions[-1].published_at == 2001
    assert after.serial == 4
    assert before.with_version(IndexEntry("3", 99_000)).versions[-1].published_at == 99_000
    assert Index("org/bert").with_version(IndexEntry("1", 7)).versions[-1].published_at == 7


def test_publishing_again_changes_nothing() -> None:
    """A version that is there is left as it is, and the index's serial too."""
    before = index("1", "2")
    assert before.with_version(IndexEntry("1", 99_000)) is before


def test_names_never_clash() -> None:
    """A name is a version or an alias of one model, never both; an alias means a version that exists."""
    before = index("1", aliases={"prod": "1"})
    with pytest.raises(AliasClash, match="is an alias already"):
        before.with_version(IndexEntry("prod", 5))
    with pytest.raises(AliasClash, match="is a version already"):
        before.with_alias("1", "1")
    with pytest.raises(AliasClash, match="publish it first"):
        before.with_alias("canary", "2")
    with pytest.raises(AliasClash, match="is what prod means"):
        before.without_version("1")
    with pytest.raises(InvalidReference):
        before.with_alias("latest", "1")
    with pytest.raises(InvalidReference):
        before.with_version(IndexEntry("main", 5))


def test_aliases_move() -> None:
    """An alias is moved and removed with a higher serial; setting it to what it means changes nothing."""
    before = index("1", "2", aliases={"prod": "1"})
    moved = before.with_alias("prod", "2")
    assert (moved.resolve("prod"), moved.serial) == ("2", 4)
    assert before.resolve("prod") == "1"
    assert moved.with_alias("prod", "2") is moved
    removed = moved.without_alias("prod")
    assert (removed.resolve("prod"), removed.serial) == (None, 5)
    assert removed.without_alias("prod") is removed


def test_removing_a_version() -> None:
    """A version that nothing means any more can be removed; one that is not there is none the less gone."""
    before = index("1", "2")
    after = before.without_version("2")
    assert after.latest() == "1"
    assert after.without_version("2") is after


def test_round_trip() -> None:
    """What is written is read back the same, and the same index always gives the same bytes."""
    before = index("1", "2", "3", aliases={"prod": "1", "canary": "2"})
    data = before.dump()
    assert Index.parse(data) == before
    assert Index.parse(data).dump() == data
    assert Index.parse(Index("org/bert").dump()) == Index("org/bert")


def test_only_the_newest_five_carry_their_manifests_id() -> None:
    """The index stays small: older versions lose the manifest's id."""
    found = Index.parse(index(*"1234567").dump())
    assert [entry.manifest_id is not None for entry in found.versions] == [False] * 2 + [True] * 5


def test_order_comes_from_the_facts_not_from_the_file() -> None:
    """Versions are ordered by their times, however they were written; unknown members are ignored."""
    document = json.loads(index("1", "2").dump())
    document["versions"].reverse()
    document["new"] = document["versions"][0]["new"] = {"x": 1}
    assert Index.parse(json.dumps(document).encode()) == index("1", "2")


def test_what_a_newer_hotstart_wrote_can_be_kept() -> None:
    """A writer that asks for unknown members keeps them through every change; readers never see them."""
    document = json.loads(index("1", "2", aliases={"prod": "1"}).dump())
    document["signed_by"] = {"x": [1]}
    document["versions"][0]["note"] = "n"
    data = json.dumps(document).encode()
    found = Index.parse(data, keep_others=True)
    assert json.loads(found.dump()) == document
    changed = found.with_alias("prod", "2").with_version(IndexEntry("3", 9_000)).without_version("2x")
    written = json.loads(changed.without_alias("prod").dump())
    assert written["signed_by"] == {"x": [1]}
    assert [entry.get("note") for entry in written["versions"]] == ["n", None, None]
    assert found == Index.parse(data)
    assert b"note" not in Index.parse(data).dump()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"format": 2}, "format 2: this hotstart reads format 1; upgrade it"),
        ({"format": "1"}, "format: expected int"),
        ({"model": "a/b/c"}, "model: 'a/b/c' is not a valid reference"),
        ({"serial": -1}, "serial: -1 is not within"),
        ({"versions": [{"version": "latest", "published_at": "2026-11-24T03:30:14Z"}]}, "version: 'latest'"),
        (
            {"versions": [{"version": "1", "published_at": "yesterday"}]},
            "time 'yesterday': expected RFC 3339",
        ),
        ({"versions": [{"version": "1", "published_at": 5}]}, "published_at: expected str"),
        (
            {"versions": [{"version": "1", "published_at": "2026-11-24T03:30:14Z", "manifest_id": "x"}]},
            "manifest_id: expected 64",
        ),
        ({"versions": [{"version": "1", "published_at": "2026-11-24T03:30:14Z"}] * 2}, "stands in it twice"),
        ({"aliases": {"1": "2"}}, "stands in it twice"),
        ({"aliases": {"main": "1"}}, "aliases: 'main'"),
        ({"aliases": {"prod": "../1"}}, "aliases: '../1'"),
        ({"aliases": {"prod": 1}}, "aliases: expected strings"),
        ({"aliases": []}, "aliases: expected dict"),
    ],
)
def test_malformed(members: dict[str, object], reason: str) -> None:
    """Whatever breaks the rules of an index is an error that says which."""
    document = {**json.loads(index("1", "2").dump()), **members}
    with pytest.raises(FormatError, match=reason):
        Index.parse(json.dumps(document).encode())
