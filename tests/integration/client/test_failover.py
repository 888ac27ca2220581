"""Sources that break in the middle: the load goes on from the very byte, and is bit-identical."""

from __future__ import annotations

import time

import pytest

import hotstart
from hotstart.model import Model
from hotstart.sources.base import SourceKind
from hotstart.wire.ranges import coalesce
from tests.integration.client.conftest import Published
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.models import assert_same_tensors

WEIGHTS = "model.safetensors"
MEBIBYTE = 1024 * 1024
# What to ask for, and the suffix of the twin that then comes.
TWINS = {"zstd": ".zst", "planes": ".zsp"}


def check(published: Published, model: Model, **options: object) -> None:
    found = model.load(**options)  # type: ignore[arg-type]
    assert_same_tensors(found, published.weights("org/bert@1")[0])


def refetched_bytes(path: str, *sources: FaultySource) -> int:
    """Return how many bytes of a representation were given more than once, by all sources together."""
    ranges = [part for source in sources for part in source.sent.get(path, [])]
    return sum(len(part) for part in ranges) - sum(len(part) for part in coalesce(ranges))


@pytest.mark.parametrize(
    "dies_after", [0, 1, 7, 8, 9, 1000, 96 * 1024, 4 * MEBIBYTE, 4 * MEBIBYTE + 1, 11_000_003]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SourceKind.TCP, SourceKind.ORIGIN),
        (SourceKind.UNIX, SourceKind.PRESIGNED),
        (SourceKind.TCP, SourceKind.UNIX),
    ],
)
def test_a_lost_source_costs_no_byte_twice(
    published: Published, bert: Version, dies_after: int, before: SourceKind, after: SourceKind
) -> None:
    """Wherever a source dies, the next goes on from there, whether the one or the other is checked."""
    first = FaultySource(bert, "first", before, dies_after=dies_after)
    second = FaultySource(bert, "second", after)
    model = open_with(bert, first, second)
    check(published, model, compression="none")
    assert refetched_bytes(WEIGHTS, first, second) == 0
    assert first.total + second.total == len(bert.content[WEIGHTS])
    assert model.report.failovers
    assert model.report.received_bytes.get("first", 0) == first.total
    assert model.report.received_bytes["second"] == second.total


@pytest.mark.parametrize("compression", TWINS)
@pytest.mark.parametrize("dies_after", [1, 500, 5000, 3 * MEBIBYTE, 9_000_001])
def test_a_twin_goes_on_in_the_middle_of_a_frame(
    published: Published, bert: Version, dies_after: int, compression: str
) -> None:
    """The bytes of a frame that have arrived are kept for the next source of the same twin."""
    first = FaultySource(bert, "first", dies_after=dies_after)
    second = FaultySource(bert, "second", SourceKind.PRESIGNED)
    twin = WEIGHTS + TWINS[compression]
    check(published, open_with(bert, first, second), compression=compression)
    assert first.total + second.total <= len(bert.content[twin])
    assert refetched_bytes(twin, first, second) == 0
    assert WEIGHTS not in second.sent


@pytest.mark.parametrize("dies_after", [0, 1, 500, 5000, 3 * MEBIBYTE, 9_000_001])
@pytest.mark.parametrize("verify", [None, "none", "full"])
@pytest.mark.parametrize("compression", TWINS)
def test_identity_goes_on_where_a_twin_was_lost(
    published: Published, bert: Version, dies_after: int, verify: str | None, compression: str
) -> None:
    """A source without the twin serves the identity of what is left, from the frame that was not whole."""
    first = FaultySource(bert, "first", dies_after=dies_after)
    second = FaultySource(bert, "second", SourceKind.ORIGIN, lacks=tuple(TWINS.values()))
    check(published, open_with(bert, first, second), compression=compression, verify=verify)
    # Frames that were whole when the first died are not asked for again.
    decoded = max(0, dies_after - 4 * 4 * MEBIBYTE)
    assert second.total <= len(bert.content[WEIGHTS]) - decoded
    assert refetched_bytes(WEIGHTS, second) == 0


@pytest.mark.parametrize("verify", ["none", "pieces"])
@pytest.mark.parametrize("compression", ["none", *TWINS])
@pytest.mark.parametrize("after", [SourceKind.UNIX, SourceKind.ORIGIN])
@pytest.mark.parametrize("dies_after", [1, 5000, 300_000])
def test_some_tensors_survive_a_lost_source(
    published: Published, bert: Version, verify: str, compression: str, after: SourceKind, dies_after: int
) -> None:
    """A load of some tensors changes from frames to pieces, and from unchecked to checked, without a gap."""
    names = ["encoder.layer.3.attention.query.weight", "logit_scale", "encoder.layer.0.attention.query.bias"]
    first = FaultySource(bert, "first", SourceKind.UNIX, dies_after=dies_after)
    second = FaultySource(bert, "second", after, lacks=tuple(TWINS.values()))
    options = {"tensors": names, "compression": compression, "verify": verify if verify == "pieces" else None}
    found = open_with(bert, first, second).load(**options)  # type: ignore[arg-type]
    expected = hotstart.load("org/bert@1", origin=published.origin)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: expected[name].tobytes() for name in names
    }


@pytest.mark.parametrize("compression", ["none", *TWINS])
def test_bodies_that_are_cut_are_resumed_at_the_same_source(
    published: Published, bert: Version, compression: str
) -> None:
    """A connection that breaks again and again costs requests, not bytes, as long as it gets on."""
    source = FaultySource(bert, cuts_every=2 * MEBIBYTE + 11)
    other = FaultySource(bert, "other")
    model = open_with(bert, source, other)
    check(published, model, compression=compression)
    assert other.fetches == 0
    assert all(refetched_bytes(WEIGHTS + suffix, source) == 0 for suffix in ("", *TWINS.values()))
    assert model.report.retries
    assert not model.report.failovers


def test_a_source_that_never_gets_on_is_given_up(published: Published, bert: Version) -> None:
    """A source that breaks without a byte is asked a few times and then no more."""
    stuck = FaultySource(bert, "stuck", cuts_every=0)
    other = FaultySource(bert, "other")
    check(published, open_with(bert, stuck, other), compression="none")
    assert stuck.total == 0
    assert stuck.fetches <= 4 * 4
    assert other.total == len(bert.content[WEIGHTS])


def test_all_sources_lost_is_one_error_that_lists_them(bert: Version) -> None:
    """When every source is lost, the error says of each why."""
    first = FaultySource(bert, "first", dies_after=5_000_000)
    second = FaultySource(bert, "second", dies_after=0)
    with pytest.raises(hotstart.AllSourcesFailed) as caught:
        open_with(bert, first, second).load(compression="none")
    assert [failure.source for failure in caught.value.failures] == ["first", "second"]
    assert "every source failed\n  1. first: receiving: it died\n  2. second: connecting: it is dead" in str(
        caught.value
    )


def test_a_failure_ends_all_workers_at_once(bert: Version) -> None:
    """When the last source is lost, no worker goes on: the error comes before another byte is asked for."""
    source = FaultySource(bert, dies_after=1000)
    with pytest.raises(hotstart.AllSourcesFailed):
        open_with(bert, source).load(compression="none")
    fetches = source.fetches
    time.sleep(0)
    assert source.fetches == fetches
    assert source.total == 1000


def test_the_second_load_of_a_model_uses_what_is_left(published: Published, bert: Version) -> None:
    """A source that was given up is not asked again by the same model."""
    first = FaultySource(bert, "first", dies_after=0)
    model = open_with(bert, first, FaultySource(bert, "second"))
    check(published, model)
    fetches = first.fetches
    check(published, model)
    assert first.fetches == fetches
