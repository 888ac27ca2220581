"""From a request's headers and the selected representation to status, headers and range, sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from hotstart.wire.digests import repr_digest
from hotstart.wire.errors import HotstartError
from hotstart.wire.ranges import ByteRange, content_range, parse_range

from .conditions import Outcome, evaluate, http_date, if_range_holds

__all__ = ["AnswerPlan", "PreconditionFailed", "Selected", "plan_answer"]


_digest_header = lru_cache(maxsize=256)(repr_digest)


class PreconditionFailed(HotstartError):
    """If-Match or If-Unmodified-Since does not hold for what is there (412).

    Attributes:
        etag: of what is there.
    """

    def __init__(self, etag: str) -> None:
        self.etag = etag
        super().__init__(f"the precondition fails: the present representation is {etag}")


@dataclass(frozen=True, slots=True)
class Selected:
    """The selected representation (RFC 9110, 3.2) and what its headers say.

    Attributes:
        size: bytes.
        etag: strong, quotes included.
        media_type: Content-Type.
        cache_control: Cache-Control.
        last_modified: seconds since the epoch, or None.
        dates_identify: as ``conditions.evaluate`` takes it.
        content_location: path of the URL that always means this representation, or None.
        sha256: hex, where it is known.
    """

    size: int
    etag: str
    media_type: str
    cache_control: str
    last_modified: int | None = None
    dates_identify: bool = False
    content_location: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What to answer.

    Attributes:
        status: 200, 206 or 304.
        wanted: the bytes to send; None for none at all (304, HEAD).
        headers: all that depend on the representation.
        may_redirect: the method and validators allow a 307 instead.
    """

    status: int
    wanted: ByteRange | None
    headers: dict[str, str] = field(default_factory=dict)
    may_redirect: bool = False


def plan_answer(method: str, headers: Mapping[str, str], selected: Selected) -> AnswerPlan:
    """Decide about a GET or HEAD.

    Args:
        method: ``GET`` or ``HEAD``.
        headers: the request's, names in lower case, repeated ones joined by commas.
        selected: what the URL means now.

    Raises:
        PreconditionFailed: If-Match or If-Unmodified-Since does not hold.
        RangeNotSatisfiable: a valid Range lies outside.
    """
    outcome = evaluate(headers, selected.etag, selected.last_modified, dates_identify=selected.dates_identify)
    if outcome is Outcome.FAILED:
        raise PreconditionFailed(selected.etag)
    if outcome is Outcome.NOT_MODIFIED:
        return AnswerPlan(304, None, _shared_headers(selected))
    sent = None
    # Range is defined for GET alone (RFC 9110, 14.2).
    if method == "GET" and if_range_holds(
        headers.get("if-range"),
        selected.etag,
        selected.last_modified,
        dates_identify=selected.dates_identify,
    ):
        sent = parse_range(headers.get("range"), selected.size)
    answer_headers = _shared_headers(selected)
    answer_headers["Content-Type"] = selected.media_type
    answer_headers["Accept-Ranges"] = "bytes"
    if selected.sha256 is not None:
        answer_headers["Repr-Digest"] = _digest_header(selected.sha256)
    if sent is not None:
        answer_headers["Content-Range"] = content_range(sent, selected.size)
    wanted = ByteRange(0, selected.size) if sent is None else sent
    answer_headers["Content-Length"] = str(len(wanted))
    return AnswerPlan(
        status=200 if sent is None else 206,
        wanted=wanted if method == "GET" else None,
        headers=answer_headers,
        may_redirect=_may_redirect(method, headers),
    )


def _may_redirect(method: str, headers: Mapping[str, str]) -> bool:
    # The origin's ETag is another one, so a validator of ours would fail or mislead there.
    return (
        method == "GET"
        and "if-match" not in headers
        and "if-range" not in headers
        and headers.get("hotstart-redirect", "").strip().lower() != "no"
    )


def _shared_headers(selected: Selected) -> dict[str, str]:
    headers = {"ETag": selected.etag, "Cache-Control": selected.cache_control}
    if selected.last_modified is not None:
        headers["Last-Modified"] = http_date(selected.last_modified)
    if selected.content_location is not None:
        headers["Content-Location"] = selected.content_location
    return headers
