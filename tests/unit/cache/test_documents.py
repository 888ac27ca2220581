"""The names of documents in a store."""

from __future__ import annotations

import pytest

from hotstart_proxy.cache.documents import (
    Kind,
    Place,
    arrival_name,
    index_name,
    manifest_name,
    pieces_name,
    pin_name,
    place_of,
)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (index_name("org/bert"), Place("org/bert", Kind.INDEX, "")),
        (manifest_name("org/bert", "7"), Place("org/bert", Kind.MANIFEST, "7")),
        (manifest_name("org/bert", "index.json"), Place("org/bert", Kind.MANIFEST, "index.json")),
        (manifest_name("manifests/pieces", "v.json"), Place("manifests/pieces", Kind.MANIFEST, "v.json")),
        (pin_name("org/bert", "7"), Place("org/bert", Kind.PIN, "7")),
        (arrival_name("org/bert", "7.json"), Place("org/bert", Kind.ARRIVAL, "7.json")),
        (pieces_name("org/bert", "a" * 64), Place("org/bert", Kind.PIECES, "a" * 64)),
    ],
)
def test_names_are_taken_apart_again(name: str, place: Place) -> None:
    """Whatever is put together is taken apart into the same, also for awkward names."""
    assert place_of(name) == place


@pytest.mark.parametrize(
    "name", ["index.json", "org/index.json", "org/bert/other.json", "org/bert/manifests/7", "a/b/c/d/e.json"]
)
def test_other_names(name: str) -> None:
    """What is none of ours is None."""
    assert place_of(name) is None
