"""A ranged read of one pinned S3 object that survives broken connections: retried, resumed at the byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange, parse_content_range
from hotstart_proxy.core.retries import RetryPolicy

from .base import ObjectChanged, OriginError, OriginUnreachable
from .s3_attempts import Attempts, S3Line
from .s3_errors import translated

__all__ = ["RangeReader"]

# In a row without progress; with the pauses between them this bridges a few seconds.
_ATTEMPTS = 6
# Of the stalls that end a connection: one is bad luck, two in a row are an origin that hangs.
_PATIENCE_STALLS = 2
_READ_BYTES = 1024 * 1024


class RangeReader:
    """Reads a range as one stream, over as many requests as it takes.

    Every request carries If-Match, so bytes of two states of an object never meet.
    """

    def __init__(
        self,
        client: Any,
        line: S3Line,
        target: dict[str, str],
        item: OriginObject,
        wanted: ByteRange,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            client: an S3 client that does not retry by itself.
            line: to the origin.
            target: Bucket, Key and perhaps VersionId.
            item: what is pinned.
            wanted: not empty.
        """
        self._client = client
        self._origin = line.origin
        self._arguments = {**target, "IfMatch": item.etag}
        self._item = item
        self._wanted = wanted
        self._position = wanted.start
        self._stall_seconds = line.stall_seconds
        self._doing = f"reading bytes {wanted.start} to {wanted.stop} of {item.key}"
        self._body: Any = None
        patience = _PATIENCE_STALLS * line.stall_seconds
        self._attempts = Attempts(line, RetryPolicy(_ATTEMPTS, patience))

    async def open(self) -> None:
        """Send the first request.

        Raises:
            ObjectChanged, OriginDenied, OriginUnreachable: as ``Origin.get``.
        """
        while self._body is None:
            try:
                await self._request()
            except OriginError as error:
                await self._attempts.recover(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the wanted bytes in order (errors as open)."""
        while self._position < self._wanted.stop:
            await self.open()
            try:
                chunk = await self._read()
            except OriginUnreachable as error:
                self.close()
                await self._attempts.recover(error)
                continue
            self._position += len(chunk)
            self._attempts.received(len(chunk))
            yield chunk

    def close(self) -> None:
        """Let go of the connection; it is used again only if its answer was read to the end."""
        if self._body is not None:
            self._body.close()
            self._body = None

    async def _request(self) -> None:
        left = ByteRange(self._position, self._wanted.stop)
        with translated(self._origin, self._doing):
            await self._attempts.sign()
            async with self._attempts.waiting(self._stall_seconds):
                answer = await self._client.get_object(**self._arguments, Range=left.header())
        body = answer["Body"]
        try:
            self._check(answer, left)
        except BaseException:
            body.close()
            raise
        self._attempts.answered()
        self._body = body

    def _check(self, answer: dict[str, Any], left: ByteRange) -> None:
        """Compare an answer's head with what was asked, for servers that ignore the conditions."""
        if answer.get("ETag") != self._item.etag:
            raise ObjectChanged(
                self._origin, self._doing, f"ETag {answer.get('ETag')} came, not {self._item.etag}"
            )
        value = answer.get("ContentRange")
        if value is None:
            # A server may send the whole for a range that is the whole.
            if (left.start, answer.get("ContentLength")) != (0, left.stop):
                raise OriginUnreachable(self._origin, self._doing, "the answer is not the range asked for")
            return
        try:
            sent, size = parse_content_range(value)
        except FormatError as error:
            raise OriginUnreachable(self._origin, self._doing, str(error)) from error
        if size is not None and size < left.stop:
            raise ObjectChanged(self._origin, self._doing, f"the object has {size} bytes only")
        if sent != left:
            raise OriginUnreachable(self._origin, self._doing, f"{value} came, not {left.header()}")

    async def _read(self, most_bytes: int = _READ_BYTES) -> bytes:
        with translated(self._origin, self._doing):
            async with self._attempts.waiting(self._stall_seconds):
                chunk: bytes = await self._body.read(min(most_bytes, _READ_BYTES))
        if not chunk:
            raise OriginUnreachable(
                self._origin, self._doing, f"the answer ended at byte {self._position}, too early"
            )
        if len(chunk) > self._wanted.stop - self._position:
            raise OriginUnreachable(self._origin, self._doing, "more bytes came than were asked for")
        return chunk
