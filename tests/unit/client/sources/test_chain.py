"""The chain of sources: order, giving up, and what it tells."""

from __future__ import annotations

import pytest

from hotstart.buffers import MappedFile
from hotstart.sources.base import AllSourcesFailed, Session, Source, SourceError, SourceKind
from hotstart.sources.chain import Chain
from hotstart.wire.manifest import OriginObject, Representation

WEIGHTS = Representation("w", 3, "a" * 64, None, "x/y", OriginObject("k", '"e"'), None)
TOKENIZER = Representation("t", 3, "b" * 64, None, "x/y", OriginObject("k", '"e"'), None)


class _Mapped:
    view = memoryview(bytearray(3))

    def close(self) -> None:
        pass


class _Source(Source):
    kind = SourceKind.TCP

    def __init__(self, name: str, *paths: str, mapped: MappedFile | None = None) -> None:
        self.name = name
        self._paths = paths
        self._mapped = mapped

    def has(self, representation: Representation) -> bool:
        return not self._paths or representation.path in self._paths

    def session(self) -> Session:
        raise AssertionError("not asked for in these tests")

    def map(self, representation: Representation) -> MappedFile | None:
        return self._mapped if self.has(representation) else None


def _error(source: str) -> SourceError:
    return SourceError(source, "reading", "it broke", transient=False)


def test_the_first_is_asked_until_it_is_given_up() -> None:
    """Sources follow each other in order, and every failure is kept."""
    first, second = _Source("first"), _Source("second")
    chain = Chain("loading x", [lambda: first, lambda: second])
    assert chain.current() is first
    assert chain.current() is first
    chain.give_up(first, _error("first"))
    assert chain.current() is second
    chain.give_up(second, _error("second"))
    with pytest.raises(AllSourcesFailed) as caught:
        chain.current()
    assert [failure.source for failure in caught.value.failures] == ["first", "second"]
    assert "1. first: reading: it broke" in str(caught.value)
    assert "2. second: reading: it broke" in str(caught.value)


def test_giving_up_twice_is_giving_up_once() -> None:
    """Many workers see the same source break; it is reported once."""
    first, second = _Source("first"), _Source("second")
    chain = Chain("loading x", [lambda: first, lambda: second])
    chain.current()
    for _ in range(3):
        chain.give_up(first, _error("first"))
    assert len(chain.failures()) == 1
    assert chain.current() is second


def test_later_sources_are_made_when_their_turn_comes() -> None:
    """Making a source may cost a request: none is made before those ahead of it have failed."""
    made: list[str] = []

    def link(name: str) -> Source:
        made.append(name)
        return _Source(name)

    chain = Chain("loading x", [lambda: link("first"), lambda: link("second")])
    assert made == []
    first = chain.current()
    assert made == ["first"]
    chain.give_up(first, _error("first"))
    chain.current()
    assert made == ["first", "second"]


def test_a_source_that_cannot_be_made_is_a_failure_among_others() -> None:
    """An unreadable fallback manifest does not hide the origin behind it."""

    def broken() -> Source:
        raise _error("broken")

    last = _Source("last")
    chain = Chain("loading x", [broken, lambda: last], [_error("earlier")])
    assert chain.current() is last
    assert [failure.source for failure in chain.failures()] == ["earlier", "broken"]


def test_what_a_source_lacks_is_asked_of_the_next() -> None:
    """A source that has not everything stays first for what it has."""
    first, second = _Source("first", "w"), _Source("second")
    chain = Chain("loading x", [lambda: first, lambda: second])
    assert chain.current(TOKENIZER) is second
    assert chain.current(WEIGHTS) is first
    assert chain.current() is first


def test_only_what_lies_nearest_is_mapped() -> None:
    """A map is taken of the nearest source that has the bytes, never of one behind it."""
    mapped = _Mapped()
    near, far = _Source("near", "w", mapped=mapped), _Source("far", mapped=mapped)
    chain = Chain("loading x", [lambda: near, lambda: _Source("proxy"), lambda: far])
    found = chain.map(WEIGHTS)
    assert found is not None
    assert found == (near, mapped)
    assert chain.map(TOKENIZER) is None


def test_bytes_are_counted_by_source() -> None:
    """The report says how many bytes came from where."""
    chain = Chain("loading x", [])
    source = _Source("first")
    chain.count(source, 3)
    chain.count(source, 4)
    assert chain.used == {"first": 7}


def test_an_empty_chain_says_so() -> None:
    """No source at all is an error too."""
    with pytest.raises(AllSourcesFailed, match="none is configured"):
        Chain("loading x", []).current()
