"""A ranged read of one pinned S3 object that survives broken connections: retried, resumed at the byte."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange, parse_content_range

from .base import ObjectChanged, OriginUnreachable
from .s3_errors import NoBucket, translated

__all__ = ["RangeReader", "backoff"]

# In a row without progress; with the pauses between them this bridges a few seconds.
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Progress that earns new attempts: a server that gives a byte and dies must not be asked for ever.
PROGRESS_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024


async def backoff(attempt: int) -> None:
    """Pause before attempt (1 is the second one): exponential, with full jitter."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 (jitter, no secret)


class RangeReader:
    """Reads a range as one stream, over as many requests as it takes.

    Every request carries If-Match, so bytes of two states of an object never meet.
    """

    def __init__(
        self,
        client: Any,
        origin: str,
        target: dict[str, str],
        item: OriginObject,
        wanted: ByteRange,
        stall_seconds: float,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            client: an S3 client that does not retry by itself.
            origin: the origin's URL, for errors.
            target: Bucket, Key and perhaps VersionId.
            item: what is pinned.
            wanted: not empty.
            stall_seconds: how long to wait for the next bytes.
        """
        self._client = client
        self._origin = origin
        self._arguments = {**target, "IfMatch": item.etag}
        self._item = item
        self._wanted = wanted
        self._position = wanted.start
        self._stall_seconds = stall_seconds
        self._doing = f"reading bytes {wanted.start} to {wanted.stop} of {item.key}"
        self._body: Any = None
        self._failures = 0
        self._failed_at = wanted.start

    async def open(self) -> None:
        """Send the first request.

        Raises:
            ObjectChanged, OriginDenied, OriginUnreachable: as ``Origin.get``.
        """
        while self._body is None:
            try:
                await self._request()
            except OriginUnreachable as error:
                await self._pause_after(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the wanted bytes in order (errors as open)."""
        while self._position < self._wanted.stop:
            await self.open()
            try:
                chunk = await self._read()
            except OriginUnreachable as error:
                self.close()
                await self._pause_after(error)
                continue
            self._position += len(chunk)
            yield chunk

    def close(self) -> None:
        """Let go of the connection; it is used again only if its answer was read to the end."""
        if self._body is not None:
            self._body.close()
            self._body = None

    async def _request(self) -> None:
        left = ByteRange(self._position, self._wanted.stop)
        with translated(self._origin, self._doing):
            async with asyncio.timeout(self._stall_seconds):
                answer = await self._client.get_object(**self._arguments, Range=left.header())
        body = answer["Body"]
        try:
            self._check(answer, left)
        except BaseException:
            body.close()
            raise
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

    async def _read(self) -> bytes:
        with translated(self._origin, self._doing):
            async with asyncio.timeout(self._stall_seconds):
                chunk: bytes = await self._body.read(READ_BYTES)
        if not chunk:
            raise OriginUnreachable(
                self._origin, self._doing, f"the answer ended at byte {self._position}, too early"
            )
        if len(chunk) > self._wanted.stop - self._position:
            raise OriginUnreachable(self._origin, self._doing, "more bytes came than were asked for")
        return chunk

    async def _pause_after(self, error: OriginUnreachable) -> None:
        if self._position - self._failed_at >= PROGRESS_BYTES:
            self._failures = 0
        self._failed_at = self._position
        self._failures += 1
        if self._failures >= ATTEMPTS or isinstance(error, NoBucket):
            raise error
        await backoff(self._failures)
