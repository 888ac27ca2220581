"""Ranged reads of pinned S3 objects by threads (``receiving``), for fills; all else is aiobotocore's.

What may be asked, how often and after which pause is decided as in ``s3_reading``. Requests are signed here
with the credentials that aiobotocore's are signed with, and go to where it would send them.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

from botocore.compat import get_current_datetime
from botocore.exceptions import ClientError
from botocore.utils import get_environ_proxies

from hotstart.sources.base import SourceError
from hotstart.sources.endpoints import parse_url
from hotstart.sources.sigv4 import Credentials, canonical_query, encode_path, sign
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange

from .base import OriginUnreachable
from .receiving import Answer, Receiver
from .s3_attempts import S3Line
from .s3_credentials import Keys
from .s3_errors import translated
from .s3_reading import RangeReader

__all__ = ["RangeReceiver", "S3Direct"]

# More than S3 says in any error.
_MOST_ERROR_BYTES = 64 * 1024
# What stands before S3 sends elsewhere, or is not trusted: aiobotocore knows what to do, or how to say it.
_AVOID_SECONDS = 60.0
# The only two fields of an error that are wanted.
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")
_ELSEWHERE_CODES = frozenset(("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"))


class S3Direct:
    """Signed GETs of one bucket's objects by threads."""

    def __init__(self, line: S3Line, region: str, url: str) -> None:
        """Prepare; no thread is started yet.

        Args:
            line: to the origin.
            region: to sign for.
            url: where the bucket's keys begin, encoded and with a trailing slash.
        """
        endpoint, self._base = parse_url(url)
        self._region = region
        self._receiver = Receiver(endpoint, line.origin, line.stall_seconds)
        self._avoided_until = float("-inf")

    @staticmethod
    def can_reach(url: str) -> bool:
        """Tell whether a server is asked directly: no proxy of the environment stands between."""
        return urlsplit(url).scheme in ("http", "https") and not get_environ_proxies(url)

    async def close(self) -> None:
        """Close all connections, and wait for the threads."""
        await self._receiver.close()

    async def ask(
        self, keys: Keys, key: str, item: OriginObject, wanted: ByteRange, doing: str
    ) -> Answer | None:
        """Ask for a range; None if it must be asked for another way.

        Args:
            keys: to sign with.
            key: the object's, the prefix included.
            item: what is pinned.
            wanted: not empty.
            doing: for errors.

        Raises:
            ClientError: S3 refused.
            SourceError: as ``Receiver.ask``.
        """
        now = asyncio.get_running_loop().time()
        if now < self._avoided_until:
            return None
        path = self._base + encode_path(key)
        query = canonical_query([] if item.version_id is None else [("versionId", item.version_id)])
        headers = sign(
            Credentials(keys.access_key, keys.secret_key, keys.token),
            region=self._region,
            service="s3",
            # The clock of botocore's signatures.
            now=get_current_datetime().replace(tzinfo=UTC).timestamp(),
            method="GET",
            path=path,
            query=query,
            headers={
                "Host": self._receiver.endpoint.authority,
                "Range": wanted.header(),
                "If-Match": item.etag,
            },
        )
        try:
            answer = await self._receiver.ask(f"{path}?{query}" if query else path, headers, doing)
        except SourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                self._avoided_until = now + _AVOID_SECONDS
                return None
            raise
        if answer.status in (200, 206):
            return answer
        try:
            refusal = _refusal(answer, await answer.read(_MOST_ERROR_BYTES))
        finally:
            answer.close()
        if 300 <= answer.status < 400 or refusal.response["Error"]["Code"] in _ELSEWHERE_CODES:
            self._avoided_until = now + _AVOID_SECONDS
            return None
        raise refusal


def _refusal(answer: Answer, body: bytes) -> ClientError:
    """Return what botocore makes of such an answer."""
    # The page of something that stands before S3 has neither, nor has an empty body: the status must do.
    code, message = _text(_CODE, body) or str(answer.status), _text(_MESSAGE, body)
    metadata = {"HTTPStatusCode": answer.status, "HTTPHeaders": answer.headers}
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
    return ClientError(response, "GetObject")


def _text(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return "" if found is None else unescape(found[1].decode("utf-8", "replace"))


@contextmanager
def _received(origin: str, doing: str) -> Iterator[None]:
    try:
        with translated(origin, doing):
            yield
    except SourceError as error:
        cause = error.__cause__ if isinstance(error.__cause__, TimeoutError) else error
        raise OriginUnreachable(origin, doing, error.reason) from cause


class RangeReceiver(RangeReader):
    """Reads a range into one buffer, again and again, over as many requests as it takes."""

    def __init__(
        self,
        client: Any,
        direct: S3Direct,
        line: S3Line,
        target: dict[str, str],
        item: OriginObject,
        wanted: ByteRange,
        buffer: memoryview,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            client, line, target, item, wanted: as for a reader.
            direct: to ask by.
            buffer: not empty; the caller's.
        """
        super().__init__(client, line, target, item, wanted)
        self._direct = direct
        self._buffer = buffer

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        """Yield the buffer, filled with the wanted bytes in order (errors as open)."""
        while self._position < self._wanted.stop:
            start = self._position
            room = self._buffer[: self._wanted.stop - start]
            while (filled := self._position - start) < len(room):
                await self.open()
                try:
                    await self._fill(room[filled:])
                except OriginUnreachable as error:
                    self.close()
                    await self._attempts.recover(error)
            yield room

    async def _fill(self, room: memoryview) -> None:
        if not isinstance(self._body, Answer):
            chunk = await self._read(len(room))
            room[: len(chunk)] = chunk
            self._arrived(len(chunk))
            return
        with _received(self._origin, self._doing):
            async with self._attempts.waiting(self._stall_seconds):
                await self._body.receive(room, self._arrived)

    def _arrived(self, count: int) -> None:
        self._position += count
        self._attempts.received(count)

    async def _request(self) -> None:
        left = ByteRange(self._position, self._wanted.stop)
        with _received(self._origin, self._doing):
            await self._attempts.sign()
            async with self._attempts.waiting(self._stall_seconds):
                key = str(self._arguments["Key"])
                answer = await self._direct.ask(self._attempts.keys, key, self._item, left, self._doing)
        if answer is None:
            await super()._request()
            return
        described = {
            "ETag": answer.headers.get("etag"),
            "ContentRange": answer.headers.get("content-range"),
            "ContentLength": answer.length,
        }
        try:
            self._check(described, left)
            self._check_length(answer, left)
        except BaseException:
            answer.close()
            raise
        self._attempts.answered()
        self._body = answer

    def _check_length(self, answer: Answer, left: ByteRange) -> None:
        # No more than this is received, and what else comes would be met by the next request.
        if answer.length != len(left):
            reason = f"a body of {answer.length} bytes came, for {len(left)} asked for"
            raise OriginUnreachable(self._origin, self._doing, reason)
