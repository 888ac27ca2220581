"""What another proxy's answers mean: from its statuses and problem documents to our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from hotstart.wire import documents
from hotstart.wire.errors import FormatError

from .base import ObjectChanged, OriginBusy, OriginDenied, OriginError, OriginLoop, OriginUnreachable

__all__ = ["Problem", "UpstreamFailed", "is_absent", "read_problem", "refusal", "translated"]

# A problem document is a few hundred bytes; the error page of some other server may be anything.
_MOST_PROBLEM_BYTES = 16 * 1024
_PROBLEM_MEDIA_TYPE = "application/problem+json"
# What the upstream says of its own origin, after retries of its own: to ask again at once helps nobody.
_RELAYED = frozenset(("origin-unreachable", "origin-timed-out", "origin-paused"))


class UpstreamFailed(OriginUnreachable):
    """The upstream answered that it cannot answer.

    Attributes:
        relayed: it is its own origin that did not answer, after retries.
    """

    def __init__(
        self, origin: str, doing: str, reason: str, *, retry_after_seconds: float | None, relayed: bool
    ) -> None:
        self.relayed = relayed
        super().__init__(origin, doing, reason, retry_after_seconds=retry_after_seconds)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document, as far as it matters here; empty texts where there is none."""

    code: str = ""
    detail: str = ""


@contextmanager
def translated(origin: str, doing: str) -> Iterator[None]:
    """Turn the errors of aiohttp and of sockets into ours, the cause chained."""
    try:
        yield
    except TimeoutError as error:
        raise OriginUnreachable(origin, doing, "no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise OriginUnreachable(origin, doing, str(error) or type(error).__name__) from error


async def read_problem(answer: aiohttp.ClientResponse) -> Problem:
    """Read the problem document of an answer that is no success."""
    if answer.content_type != _PROBLEM_MEDIA_TYPE:
        return Problem()
    data = await answer.content.read(_MOST_PROBLEM_BYTES)
    try:
        document = documents.load_json(data, "problem document")
        return Problem(document.text("code"), document.text("detail"))
    except FormatError:
        return Problem()


def is_absent(status: int, problem: Problem) -> bool:
    """Tell whether the upstream says that there is no such model, version or file."""
    return status == 404 and problem.code == "not-found"


def refusal(origin: str, doing: str, answer: aiohttp.ClientResponse, problem: Problem) -> OriginError:
    """Return the error that an answer other than success comes to; absence is the caller's to decide."""
    status = answer.status
    reason = f"status {status}"
    if problem.code:
        reason += f" ({problem.code}: {problem.detail})"
    if status == 412 or problem.code == "origin-changed" or is_absent(status, problem):
        return ObjectChanged(origin, doing, reason)
    if status in (401, 403) or problem.code == "origin-denied":
        return OriginDenied(origin, doing, reason)
    if status == 508:
        return OriginLoop(origin, doing, reason)
    if 300 <= status < 400:
        # Its Location may be a signature; it is not looked at.
        return OriginError(origin, doing, f"{reason}: it redirects, which was not asked for")
    if status == 429:
        after = _retry_after(answer.headers.get("Retry-After"))
        return OriginBusy(origin, doing, reason, retry_after_seconds=after)
    if status >= 500 and problem.code not in ("origin-malformed", "origin-damaged"):
        return UpstreamFailed(
            origin,
            doing,
            reason,
            retry_after_seconds=_retry_after(answer.headers.get("Retry-After")),
            relayed=problem.code in _RELAYED,
        )
    if not problem.code:
        reason += ", and no problem document: expected a hotstart proxy there"
    return OriginError(origin, doing, reason)


def _retry_after(value: str | None) -> float | None:
    # The other form, a date, would need the upstream's clock.
    return float(value) if value is not None and value.isascii() and value.isdigit() else None
