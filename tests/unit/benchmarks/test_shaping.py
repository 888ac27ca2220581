"""Token buckets, and what is read of a request that passes."""

from __future__ import annotations

import pytest

from benchmarks.shaping import Bucket, Shape, parse_request


def test_a_bucket_gives_what_it_holds_at_once() -> None:
    """As long as there are tokens nobody waits."""
    bucket = Bucket(100.0, 50.0, now=0.0)
    assert bucket.take(50, now=0.0) == 0.0


def test_a_bucket_lends_and_makes_wait_afterwards() -> None:
    """Who takes more than there is waits until that much has flowed in."""
    bucket = Bucket(100.0, 50.0, now=0.0)
    assert bucket.take(150, now=0.0) == 1.0
    assert bucket.take(100, now=1.0) == 1.0


def test_a_late_taker_is_not_made_to_wait_for_it() -> None:
    """What a sleep oversleeps is made good, so the rate is held over time."""
    bucket = Bucket(100.0, 50.0, now=0.0)
    waited = bucket.take(150, now=0.0)
    assert bucket.take(100, now=waited + 0.25) == 0.75


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    """A pause, however long, earns one burst."""
    bucket = Bucket(100.0, 50.0, now=0.0)
    assert bucket.take(50, now=100.0) == 0.0
    assert bucket.take(100, now=100.0) == 1.0


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (
            b"GET /bucket/a%20b?X-Amz-Signature=secret HTTP/1.1\r\nHost: x\r\nRange: bytes=8-15\r\n\r\n",
            ("GET", "/bucket/a%20b", 8, 15),
        ),
        (b"HEAD /bucket/key HTTP/1.1\r\nhost: x\r\n\r\n", ("HEAD", "/bucket/key", None, None)),
        (b"GET / HTTP/1.1\r\nrange:bytes=0-0\r\n\r\n", ("GET", "/", 0, 0)),
        (b"\x16\x03\x01", ("", "", None, None)),
    ],
)
def test_what_is_read_of_a_request(head: bytes, expected: tuple[str, str, int | None, int | None]) -> None:
    """Method, path and range are read; a query, which may hold a signature, is not kept."""
    assert parse_request(head) == expected


def test_a_shape_says_what_it_is() -> None:
    """The text names every limit that there is, and no other."""
    assert (
        str(Shape(0.1, 90e6, 312.5e6)) == "100 ms to the first byte, 90 MB/s a connection, 2.5 Gbit/s in all"
    )
    assert str(Shape(0.05)) == "50 ms to the first byte"
