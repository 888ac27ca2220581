"""A ranged read of one representation at another proxy: retried, resumed at the byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp

from hotstart.wire.digests import etag
from hotstart.wire.errors import FormatError
from hotstart.wire.ranges import ByteRange, parse_content_range
from hotstart.wire.references import Reference
from hotstart_proxy.core.retries import RetryPolicy
from hotstart_proxy.core.tiers import Tier

from .base import ObjectChanged, OriginError, OriginUnreachable
from .models import VersionBlob
from .upstream_answers import read_problem, refusal, translated
from .upstream_line import STALL_SECONDS, Attempts, UpstreamLine

__all__ = ["UpstreamReader", "byte_headers"]

# In a row without progress; with the pauses between them this bridges a few seconds.
_POLICY = RetryPolicy(attempts=6, patience_seconds=3 * STALL_SECONDS)


def byte_headers(blob: VersionBlob, tier: Tier) -> dict[str, str]:
    """Return the headers of every request for bytes: pinned to one content, never redirected."""
    # What is fetched before anyone asks is behind all readers here; there is no word for it on the wire.
    urgency = max(tier, Tier.BATCH)
    return {
        "If-Match": etag(blob.representation.id),
        "Hotstart-Redirect": "no",
        "X-Latency-Tier": urgency.name.lower(),
    }


class UpstreamReader:
    """Reads a range as one stream, over as many requests as it takes."""

    def __init__(self, line: UpstreamLine, blob: VersionBlob, wanted: ByteRange, tier: Tier) -> None:
        """Prepare; nothing is asked yet.

        Args:
            line: to the upstream, open.
            blob: what is read.
            wanted: not empty.
            tier: who it is for.
        """
        reference = Reference(blob.model, blob.version, blob.representation.path)
        self._line = line
        self._target = f"/v1/models/{reference.url_path()}"
        self._headers = byte_headers(blob, tier)
        self._etag = etag(blob.representation.id)
        self._wanted = wanted
        self._position = wanted.start
        self._doing = f"reading bytes {wanted.start} to {wanted.stop} of {reference}"
        self._attempts = Attempts(_POLICY)
        self._stack = AsyncExitStack()
        self._answer: aiohttp.ClientResponse | None = None

    async def open(self) -> None:
        """Send a request, again where that may help.

        Raises:
            ObjectChanged, OriginDenied, OriginUnreachable, OriginError: as ``ModelOrigin.get``.
        """
        while self._answer is None:
            try:
                await self._request()
            except OriginError as error:
                await self.close()
                await self._attempts.recover(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the wanted bytes in order (errors as open)."""
        while self._position < self._wanted.stop:
            await self.open()
            try:
                chunk = await self._read()
            except OriginUnreachable as error:
                await self.close()
                await self._attempts.recover(error)
                continue
            self._position += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Let go of the connection; it is used again only if its answer was read to the end."""
        self._answer = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _request(self) -> None:
        left = ByteRange(self._position, self._wanted.stop)
        headers = {**self._headers, "Range": left.header()}
        with translated(self._line.origin, self._doing):
            async with self._attempts.waiting(STALL_SECONDS):
                answer = await self._stack.enter_async_context(
                    self._line.request("GET", self._target, headers, self._doing)
                )
                if answer.status not in (200, 206):
                    raise refusal(self._line.origin, self._doing, answer, await read_problem(answer))
        self._check(answer, left)
        self._answer = answer

    def _check(self, answer: aiohttp.ClientResponse, left: ByteRange) -> None:
        """Compare an answer's head with what was asked, for what stands between us and ignores conditions."""
        origin, doing = self._line.origin, self._doing
        found = answer.headers.get("ETag")
        if found != self._etag:
            raise ObjectChanged(origin, doing, f"ETag {found} came, not {self._etag}")
        value = answer.headers.get("Content-Range")
        if value is None:
            if (left.start, answer.content_length) != (0, left.stop):
                raise OriginUnreachable(origin, doing, "the answer is not the range asked for")
            return
        try:
            sent, _ = parse_content_range(value)
        except FormatError as error:
            raise OriginUnreachable(origin, doing, str(error)) from error
        if sent != left:
            raise OriginUnreachable(origin, doing, f"{value} came, not {left.header()}")

    async def _read(self) -> bytes:
        assert self._answer is not None
        with translated(self._line.origin, self._doing):
            async with self._attempts.waiting(STALL_SECONDS):
                chunk = await self._answer.content.readany()
        if not chunk:
            raise OriginUnreachable(
                self._line.origin, self._doing, f"the answer ended at byte {self._position}, too early"
            )
        if len(chunk) > self._wanted.stop - self._position:
            raise OriginUnreachable(self._line.origin, self._doing, "more bytes came than were asked for")
        self._attempts.received(len(chunk))
        return chunk
