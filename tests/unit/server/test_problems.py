"""Errors and the statuses they become."""

from __future__ import annotations

import json

import pytest

from hotstart.wire.errors import FormatError, HotstartError, IntegrityError, InvalidReference
from hotstart.wire.ranges import RangeNotSatisfiable
from hotstart_proxy.cache.answers import NotFound
from hotstart_proxy.origins.base import (
    ObjectChanged,
    OriginDenied,
    OriginError,
    OriginPaused,
    OriginUnreachable,
)
from hotstart_proxy.server.problems import STATUSES, MethodNotAllowed, Moved, Unauthorized, problem_of
from hotstart_proxy.stores.base import NoSpaceNow, StoreError

ORIGIN = ("s3://bucket/prefix", "reading x", "why")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidReference("x", "y"), 400, "invalid-reference"),
        (NotFound("version", "org/bert@9", ("7", "8")), 404, "not-found"),
        (RangeNotSatisfiable("bytes=9-", 5), 416, "range-not-satisfiable"),
        (OriginUnreachable(*ORIGIN), 502, "origin-unreachable"),
        (OriginPaused("s3://bucket", "reading x", 5, 1.5), 503, "origin-paused"),
        (OriginDenied(*ORIGIN), 502, "origin-denied"),
        (ObjectChanged(*ORIGIN), 502, "origin-changed"),
        (OriginError(*ORIGIN), 502, "origin-failed"),
        (FormatError("manifest", "not JSON"), 502, "origin-malformed"),
        (IntegrityError("x", "a", "b"), 502, "origin-damaged"),
        (StoreError(*ORIGIN), 503, "store-failed"),
        (NoSpaceNow(*ORIGIN), 503, "store-full"),
        (HotstartError("x"), 500, "internal"),
    ],
)
def test_statuses(error: HotstartError, status: int, code: str) -> None:
    """Every error has its status; what cannot be reached is never said to be missing."""
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)


def test_a_time_out_anywhere_in_the_causes_is_504() -> None:
    """An origin that did not answer in time is a gateway time-out, however deep the cause lies."""
    error = OriginUnreachable(*ORIGIN)
    error.__cause__ = ConnectionError("x")
    error.__cause__.__cause__ = TimeoutError()
    assert (problem_of(error).status, problem_of(error).code) == (504, "origin-timed-out")
    other = OriginUnreachable(*ORIGIN)
    other.__cause__ = ConnectionError("x")
    other.__cause__.__context__ = TimeoutError()
    assert problem_of(other).status == 504


def test_documents() -> None:
    """A problem document has the members of RFC 9457, and the facts of its error."""
    document = json.loads(problem_of(NotFound("version", "org/bert@9", ("7", "8"))).dump())
    assert document == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "no version org/bert@9; there is 7, 8",
        "code": "not-found",
        "what": "version",
        "name": "org/bert@9",
        "known": ["7", "8"],
    }


def test_headers() -> None:
    """The headers that a status demands come with it."""
    assert problem_of(Moved("/x")).headers == {"Location": "/x"}
    assert problem_of(MethodNotAllowed("PUT", ("GET", "HEAD"))).headers == {"Allow": "GET, HEAD"}
    assert problem_of(RangeNotSatisfiable("x", 5)).headers["Content-Range"] == "bytes */5"
    assert problem_of(Unauthorized(given=False)).headers == {"WWW-Authenticate": 'Bearer realm="hotstart"'}
    assert 'error="invalid_token"' in problem_of(Unauthorized(given=True)).headers["WWW-Authenticate"]


def test_an_origin_that_wants_to_be_left_alone() -> None:
    """Whoever is refused because of the origin's pause is told how long that lasts, in whole seconds."""
    assert problem_of(OriginPaused("s3://bucket", "reading x", 5, 1.5)).headers == {"Retry-After": "2"}
    assert problem_of(OriginPaused("s3://bucket", "reading x", 5, 0.0)).headers == {"Retry-After": "1"}
    slow = OriginUnreachable(*ORIGIN, retry_after_seconds=7)
    assert problem_of(slow).headers == {"Retry-After": "7"}
    assert problem_of(OriginUnreachable(*ORIGIN)).headers == {}


def test_lone_surrogates_of_hostile_paths_can_be_written() -> None:
    """A detail that quotes undecodable bytes is still valid UTF-8."""
    assert b"\\udcff" in problem_of(HotstartError("\udcff")).dump()


def test_every_status_can_be_written() -> None:
    """No entry of the table has a status that HTTP does not name."""
    for status, code in STATUSES.values():
        assert 300 <= status < 600
        assert code == code.lower()
