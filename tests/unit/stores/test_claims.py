"""Claims of parts of a file: exclusive between open files, gone with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotstart_proxy.stores.claims import claimed_elsewhere, try_claim, unclaim


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[int]]:
    """One file of 100 bytes, opened three times."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    opened = [os.open(path, os.O_RDWR) for _ in range(3)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def pieces(found: list[range]) -> set[int]:
    return {byte for part in found for byte in part}


def test_a_claim_is_exclusive(three: list[int]) -> None:
    """What one open file has claimed another does not get; again is granted, and beside it is free."""
    one, other, _ = three
    assert try_claim(one, 10, 20)
    assert try_claim(one, 10, 20)
    assert not try_claim(other, 19, 30)
    assert try_claim(other, 20, 30)


def test_a_claim_given_back(three: list[int]) -> None:
    """A claim that is given back is free, also when only a part of it is; giving back nothing is no error."""
    one, other, _ = three
    unclaim(one, 0, 100)
    assert try_claim(one, 10, 20)
    unclaim(one, 12, 14)
    assert try_claim(other, 12, 14)
    assert not try_claim(other, 10, 11)


def test_claims_end_with_the_open_file(three: list[int]) -> None:
    """Closing the open file gives back what it had claimed, and closing another one does not."""
    one, other, third = three
    assert try_claim(one, 10, 20)
    os.close(os.dup(third))
    assert not try_claim(other, 10, 20)
    path = f"/proc/self/fd/{one}"
    again = os.open(path, os.O_RDWR)
    os.close(one)
    assert try_claim(other, 10, 20)
    os.dup2(again, one)
    os.close(again)


def test_all_claims_of_others_are_found(three: list[int]) -> None:
    """Whatever order claims were made in, all of others' are found, and none of one's own."""
    one, other, third = three
    for descriptor, start in ((other, 80), (third, 8), (other, 16), (one, 40), (third, 72), (other, 48)):
        assert try_claim(descriptor, start, start + 8)
    assert pieces(claimed_elsewhere(one, 0, 100)) == {
        *range(80, 88),
        *range(8, 24),
        *range(72, 80),
        *range(48, 56),
    }
    assert pieces(claimed_elsewhere(one, 10, 50)) == {*range(10, 24), 48, 49}
    assert pieces(claimed_elsewhere(third, 0, 30)) == set(range(16, 24))
    assert claimed_elsewhere(one, 90, 100) == []
