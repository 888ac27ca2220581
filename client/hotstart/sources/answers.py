"""What answers mean: refusals in words that help, and whether a body is exactly the bytes asked for."""

from __future__ import annotations

import json
import re

from hotstart.wire.errors import FormatError
from hotstart.wire.ranges import ByteRange, parse_content_range

from .base import SourceError
from .endpoints import mask_queries
from .http import Response

__all__ = ["Refusal", "check_range", "refused"]

# Of an error's body: what a person reads.
_MAX_EXPLANATION_BYTES = 16 * 1024
_MAX_EXPLANATION_CHARS = 400
_MAX_RETRY_AFTER_SECONDS = 3600.0
# Those that may go away by themselves. Others say that the request or the right to make it is wrong.
_TRANSIENT_STATUSES = frozenset((408, 429, 500, 502, 503, 504))
# A proxy's word for what no other attempt mends: the object at the origin is not the manifest's any more.
_FINAL_CODES = frozenset(("origin-changed",))
_XML_CODE = re.compile(r"<(Code|Message)>([^<]{1,400})</\1>")


class Refusal(SourceError):
    """A status other than the one that was hoped for.

    Attributes:
        status: HTTP status.
        code: S3's or the proxy's word for what is wrong (``NoSuchKey``, ``origin-changed``); empty where
            there is none.
    """

    def __init__(self, response: Response, reason: str, code: str) -> None:
        self.status = response.status
        self.code = code
        retry_after = response.header("Retry-After") or ""
        super().__init__(
            response.source,
            response.doing,
            reason,
            transient=response.status in _TRANSIENT_STATUSES and code not in _FINAL_CODES,
            retry_after_seconds=min(float(retry_after), _MAX_RETRY_AFTER_SECONDS)
            if retry_after.isascii() and retry_after.isdigit()
            else None,
        )


def refused(response: Response, more: str = "") -> Refusal:
    """Return the error that a status other than the expected ones means; reads and closes the answer.

    Args:
        response: the answer.
        more: what to say beyond what the answer says.
    """
    with response:
        try:
            text = response.read(_MAX_EXPLANATION_BYTES).decode("utf-8", "replace")
        except SourceError:
            text = ""
    problem = _problem(response, text)
    if problem is None:
        # S3's errors are small and flat. Of their other elements some repeat the signed request.
        elements = [(match[1], match[2]) for match in _XML_CODE.finditer(text)]
        code = next((value for name, value in elements if name == "Code"), "")
        parts: list[object] = [value for _, value in elements]
    else:
        found = problem.get("code")
        code = found if isinstance(found, str) else ""
        parts = [problem.get("title"), problem.get("detail")]
    reason = f"HTTP {response.status}{_explanation(parts)}"
    return Refusal(response, f"{reason}; {more}" if more else reason, code)


def _problem(response: Response, text: str) -> dict[str, object] | None:
    """Return the members of a problem document (RFC 9457); None if it does not say that it is one."""
    media_type = (response.header("Content-Type") or "").partition(";")[0].strip()
    if media_type not in ("application/problem+json", "application/json"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _explanation(parts: list[object]) -> str:
    """Return ``: title: detail`` of what an answer says in words; empty if it says none."""
    words = [mask_queries(part)[:_MAX_EXPLANATION_CHARS] for part in parts if isinstance(part, str) and part]
    return "".join(f": {' '.join(word.split())}" for word in words)


def check_range(response: Response, wanted: ByteRange, size: int, etag: str) -> Response:
    """Make sure that an answer's body is exactly the wanted bytes of the one representation meant.

    Args:
        response: to a GET with a ``Range``; closed if it is not what was wanted.
        wanted: the bytes asked for.
        size: of the whole representation.
        etag: that it must carry, quotes included.

    Raises:
        SourceError: any other status, range, length or ETag.
    """
    if response.status == 412:
        raise refused(response, "the object there is no longer the one in the manifest")
    if response.status not in (200, 206):
        raise refused(response)
    fault = _range_fault(response, wanted, size, etag)
    if fault is not None:
        response.close()
        raise SourceError(response.source, response.doing, fault, transient=False)
    return response


def _range_fault(response: Response, wanted: ByteRange, size: int, etag: str) -> str | None:
    found = response.header("ETag")
    if found != etag:
        return f"it serves other bytes than the manifest's: ETag {found}, expected {etag}"
    if not response.has_length or response.length != len(wanted):
        if response.status == 200:
            return "it ignores Range, and answered 200 with the whole"
        length = response.length if response.has_length else "unknown"
        return f"Content-Length {length}: expected {len(wanted)}"
    value = response.header("Content-Range")
    if value is None:
        if response.status == 200 and wanted == ByteRange(0, size):
            return None
        return (
            f"HTTP {response.status} without Content-Range: expected bytes {wanted.start}-{wanted.stop - 1}"
        )
    try:
        sent, whole = parse_content_range(value)
    except FormatError as error:
        return str(error)
    if sent != wanted or whole not in (None, size):
        return f"Content-Range {value!r}: expected bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return None
