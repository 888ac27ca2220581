"""An S3 server that fails on demand: what no real server does when it is told to.

It serves a folder, laid out and with the ETags of the ``directory`` origin, as one bucket: publish into the
folder by ``file://``, and let the proxy read it by ``s3://``. It knows GET (ranges, If-Match, If-None-Match),
HEAD, ListObjectsV2 and PUT, path style; it looks at who asks, and does not verify signatures.

::

    with FaultS3(folder) as s3:
        s3.fail(slow_down(retry_after=1), times=3)              # the next three requests
        s3.fail(cut(after=100_000), key="*.safetensors")        # from now on, for these keys
        ...                                                     # environment=s3.environment(), s3.origin
        s3.mend()                                               # no more faults
        s3.stop(); s3.start()                                   # nobody there; back again
        s3.sent("org/bert/7/model.safetensors")                 # bytes that went out, by key

It runs in a thread with a loop of its own, so that blocking tests and proxies in other processes can use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from hotstart.wire.ranges import ByteRange, RangeNotSatisfiable, content_range, parse_range
from hotstart_proxy.origins.base import AlreadyExists, ObjectChanged, ObjectInfo
from hotstart_proxy.origins.directory import DirectoryOrigin
from tests.support.deadlines import DEADLINE_SECONDS

__all__ = [
    "BUCKET",
    "Act",
    "Fault",
    "FaultS3",
    "Seen",
    "cut",
    "denied",
    "hang",
    "other_etag",
    "reset",
    "server_error",
    "slow",
    "slow_down",
    "throttle",
    "whole",
    "wrong_range",
]

BUCKET = "models"
_CHUNK_BYTES = 64 * 1024
_PAGE_KEYS = 1000
# SO_LINGER with time 0: close() sends RST at once.
_RESET = struct.pack("ii", 1, 0)
Act: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request; everything that is not said goes right.

    Attributes:
        status, code: an error instead of an answer; code is S3's.
        headers: more headers of that error, or of the answer.
        delay_seconds: before anything is sent.
        bytes_per_second: of the body.
        hang_after: bytes of the body after which nothing more comes; -1: not even the headers.
        cut_after: bytes of the body after which the connection is closed.
        resets: it is cut by RST.
        etag: instead of the right one.
        shift: Content-Range, and the bytes, are so much further on.
        ignores_range: 200 with the whole object.
        flips: the byte at this offset of the object is wrong.
        act: answers instead of this server, whatever it likes.
    """

    status: int | None = None
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    bytes_per_second: float | None = None
    hang_after: int | None = None
    cut_after: int | None = None
    resets: bool = False
    etag: str | None = None
    shift: int = 0
    ignores_range: bool = False
    flips: int | None = None
    act: Act | None = None


def slow_down(retry_after: int | None = None) -> Fault:
    """503 SlowDown, as S3 throttles."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(503, "SlowDown", headers)


def server_error() -> Fault:
    """500 InternalError."""
    return Fault(500, "InternalError")


def denied(code: str, *, server_ahead_seconds: float = 0.0) -> Fault:
    """403 with an S3 code; RequestTimeTooSkewed with a Date so far ahead of this host's."""
    if not server_ahead_seconds:
        return Fault(403, code)
    return Fault(403, code, {"Date": formatdate(time.time() + server_ahead_seconds, usegmt=True)})


def hang(after: int = -1) -> Fault:
    """Silence before the headers, or after so many bytes of the body."""
    return Fault(hang_after=after)


def cut(after: int) -> Fault:
    """The body ends so early."""
    return Fault(cut_after=after)


def reset(after: int = 0) -> Fault:
    """RST after so many bytes of the body."""
    return Fault(cut_after=after, resets=True)


def slow(seconds: float) -> Fault:
    """A late answer."""
    return Fault(delay_seconds=seconds)


def throttle(bytes_per_second: float) -> Fault:
    """A slow body."""
    return Fault(bytes_per_second=bytes_per_second)


def wrong_range(shift: int = 1) -> Fault:
    """Another range than the one that was asked for, and saying so."""
    return Fault(shift=shift)


def other_etag() -> Fault:
    """Another object under the key, by a server that does not mind If-Match."""
    return Fault(etag='"another"')


def whole() -> Fault:
    """200 with the whole for a range."""
    return Fault(ignores_range=True)


@dataclass(slots=True)
class Seen:
    """A request that came; what was answered is noted as it happens, before it can be seen elsewhere.

    Attributes:
        key: below the bucket; empty for a listing.
        wanted: the Range header's value; None where there was none.
        access_key: who asked; None where nobody says.
        presigned: the signature was in the query.
        status: of the answer; 0 while there is none.
        sent_bytes: of an object, in the body, so far.
        at: when it came, by the monotonic clock.
    """

    method: str
    key: str
    wanted: str | None
    access_key: str | None
    presigned: bool
    status: int = 0
    sent_bytes: int = 0
    at: float = 0.0


@dataclass(slots=True)
class _Rule:
    fault: Fault
    key: str
    method: str
    presigned: bool | None
    times: int | None

    def fits(self, seen: Seen) -> bool:
        if self.times == 0 or (self.presigned is not None and seen.presigned is not self.presigned):
            return False
        return fnmatch.fnmatchcase(seen.key, self.key) and self.method in ("*", seen.method)


class FaultS3:
    """One server over one folder; a context manager.

    Attributes:
        url: the endpoint.
        origin: what ``--origin`` takes.
        seen: every request so far, in the order in which they came.
        refused_keys: access keys that are answered with an S3 code each: ``{"OLD": "ExpiredToken"}``.
    """

    origin = f"s3://{BUCKET}"

    def __init__(self, folder: Path, access_key: str = "hotstart-test") -> None:
        """Serve folder; access_key is what ``environment`` gives."""
        self.url = ""
        self.seen: list[Seen] = []
        self.refused_keys: dict[str, str] = {}
        self._objects = DirectoryOrigin(folder)
        self._access_key = access_key
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self._port = 0

    def __enter__(self) -> FaultS3:
        self._thread.start()
        self._in_loop(self._start()).result(DEADLINE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._in_loop(self._stop()).result(DEADLINE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_SECONDS)
        self._loop.close()

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        # The same one after a restart.
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _stop(self) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # What tests say.

    def environment(self) -> dict[str, str]:
        """Return the variables by which any AWS client finds this server."""
        return {
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": "not-verified",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def fail(
        self,
        fault: Fault,
        *,
        key: str = "*",
        method: str = "*",
        presigned: bool | None = None,
        times: int | None = None,
    ) -> None:
        """Let requests fail from now on; of several rules that fit, the one that was given first counts.

        Args:
            fault: how.
            key: pattern of the keys (fnmatch); a listing's is empty.
            method: one, or all.
            presigned: only those that are pre-signed, or only those that are not; None both.
            times: how often; None for ever.
        """
        with self._lock:
            self._rules.append(_Rule(fault, key, method, presigned, times))

    def script(self, *acts: Act) -> None:
        """Let requests be answered by these in turn, and by the last one for ever."""
        self.mend()
        for act in acts[:-1]:
            self.fail(Fault(act=act), times=1)
        self.fail(Fault(act=acts[-1]))

    def mend(self) -> None:
        """Let everything go right from the next request on; what hangs goes on hanging."""
        with self._lock:
            self._rules.clear()

    def sent(self, key: str = "*") -> int:
        """Return how many bytes of objects went out, of the keys that fit the pattern."""
        return sum(seen.sent_bytes for seen in self.requests(key))

    def requests(self, key: str = "*", method: str = "*") -> list[Seen]:
        """Return the requests so far, of the keys that fit the pattern."""
        rule = _Rule(Fault(), key, method, None, None)
        with self._lock:
            return [seen for seen in self.seen if rule.fits(seen)]

    def stop(self) -> None:
        """Take the server away: connections are refused until ``start``."""
        self._in_loop(self._stop()).result(DEADLINE_SECONDS)

    def start(self) -> None:
        """Bring it back, on the same port."""
        self._stopping = asyncio.Event()
        self._in_loop(self._start()).result(DEADLINE_SECONDS)

    # What clients get.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0])
        bucket, _, key = path.removeprefix("/").partition("/")
        query = request.query.get("X-Amz-Credential")
        header = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        seen = Seen(
            request.method,
            key,
            request.headers.get("Range"),
            query.partition("/")[0] if query else header[1] if header else None,
            query is not None,
            at=time.monotonic(),
        )
        with self._lock:
            self.seen.append(seen)
        return await self._answer(
            request, bucket, key, _Answer(request, seen, self._take(seen), self._stopping)
        )

    def _take(self, seen: Seen) -> Fault:
        with self._lock:
            for rule in self._rules:
                if rule.fits(seen):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.fault
        return Fault()

    async def _answer(
        self, request: web.Request, bucket: str, key: str, answer: _Answer
    ) -> web.StreamResponse:
        fault = answer.fault
        await asyncio.sleep(fault.delay_seconds)
        if fault.hang_after is not None and fault.hang_after < 0:
            await self._stopping.wait()
            raise asyncio.CancelledError
        if fault.act is not None:
            return await fault.act(request)
        if fault.status is not None:
            return answer.error(fault.status, fault.code)
        refused = self.refused_keys.get(answer.seen.access_key or "")
        if refused is not None:
            return answer.error(400 if refused == "ExpiredToken" else 403, refused)
        if answer.seen.presigned and _has_expired(request.query):
            return answer.error(403, "AccessDenied", "Request has expired")
        if bucket != BUCKET:
            return answer.error(404, "NoSuchBucket")
        if not key:
            return answer.xml(await self._list(request.query))
        if request.method == "PUT":
            return await self._put(request, key, answer)
        found = await self._objects.head(key)
        if found is None:
            return answer.error(404, "NoSuchKey")
        return await self._get(request, found, answer)

    async def _get(self, request: web.Request, found: ObjectInfo, answer: _Answer) -> web.StreamResponse:
        headers = request.headers
        etag = answer.fault.etag or found.etag
        if answer.fault.etag is None and headers.get("If-Match", etag) != etag:
            return answer.error(412, "PreconditionFailed")
        answer.headers |= {"ETag": etag, "Last-Modified": formatdate(found.last_modified / 1000, usegmt=True)}
        if headers.get("If-None-Match") == etag:
            return answer.bodyless(304, 0)
        if request.method == "HEAD":
            return answer.bodyless(200, found.size)
        path = Path(self._objects.identity.bucket) / found.key
        try:
            wanted = parse_range(headers.get("Range"), found.size)
        except RangeNotSatisfiable:
            return answer.error(416, "InvalidRange")
        if wanted is None or answer.fault.ignores_range:
            return await answer.body(200, path, ByteRange(0, found.size))
        if answer.fault.shift:
            wanted = ByteRange(
                wanted.start + answer.fault.shift, min(wanted.stop + answer.fault.shift, found.size)
            )
        answer.headers["Content-Range"] = content_range(wanted, found.size)
        return await answer.body(206, path, wanted)

    async def _put(self, request: web.Request, key: str, answer: _Answer) -> web.StreamResponse:
        try:
            info = await self._objects.put(
                key,
                await request.read(),
                create_only=request.headers.get("If-None-Match") == "*",
                if_match=request.headers.get("If-Match"),
            )
        except (AlreadyExists, ObjectChanged):
            return answer.error(412, "PreconditionFailed")
        answer.headers["ETag"] = info.etag
        return answer.bodyless(200, 0)

    async def _list(self, query: Mapping[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        # The directory origin lists whole folders.
        folder = prefix[: prefix.rfind("/") + 1]
        listing = await self._objects.list(folder, recursive=not delimiter)
        objects = [item for item in listing.objects if item.key.startswith(prefix)]
        after = query.get("continuation-token", "")
        page = [item for item in objects if item.key > after]
        more = page[_PAGE_KEYS:]
        parts = ["<ListBucketResult>", f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"]
        if more:
            parts.append(f"<NextContinuationToken>{escape(page[_PAGE_KEYS - 1].key)}</NextContinuationToken>")
        for item in page[:_PAGE_KEYS]:
            moment = datetime.fromtimestamp(item.last_modified / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            parts.append(
                f"<Contents><Key>{escape(item.key)}</Key><LastModified>{moment}</LastModified>"
                f"<ETag>{escape(item.etag)}</ETag><Size>{item.size}</Size></Contents>"
            )
        folders = [name for name in listing.folders if name.startswith(prefix)]
        if delimiter and not after:
            parts += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders]
        return "".join([*parts, "</ListBucketResult>"])


def _has_expired(query: Mapping[str, str]) -> bool:
    signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return time.time() > signed_at.timestamp() + int(query["X-Amz-Expires"])


class _Answer:
    """One answer on its way."""

    def __init__(self, request: web.Request, seen: Seen, fault: Fault, stopping: asyncio.Event) -> None:
        self.seen = seen
        self.fault = fault
        self.headers: dict[str, str] = dict(fault.headers)
        self._request = request
        self._stopping = stopping

    def error(self, status: int, code: str, message: str = "as the test says") -> web.Response:
        self.seen.status = status
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if self._request.method == "HEAD":
            text = ""
        return web.Response(status=status, headers=self.headers, text=text, content_type="application/xml")

    def xml(self, text: str) -> web.Response:
        self.seen.status = 200
        return web.Response(headers=self.headers, text=text, content_type="application/xml")

    def bodyless(self, status: int, size: int) -> web.Response:
        self.seen.status = status
        # aiohttp keeps a HEAD's Content-Length as it is told.
        headers = (
            {**self.headers, "Content-Length": str(size)} if self._request.method == "HEAD" else self.headers
        )
        return web.Response(status=status, headers=headers)

    async def body(self, status: int, path: Path, wanted: ByteRange) -> web.StreamResponse:
        self.seen.status = status
        response = web.StreamResponse(status=status, headers=self.headers)
        response.content_length = len(wanted)
        await response.prepare(self._request)
        for chunk in self._chunks(path, wanted):
            self.seen.sent_bytes += len(chunk)
            await response.write(chunk)
            if self.fault.bytes_per_second is not None:
                await asyncio.sleep(len(chunk) / self.fault.bytes_per_second)
        if self.seen.sent_bytes < len(wanted):
            await self._break_off()
        return response

    def _chunks(self, path: Path, wanted: ByteRange) -> Iterator[bytes]:
        limits = (len(wanted), self.fault.cut_after, self.fault.hang_after)
        position, stop = wanted.start, wanted.start + min(limit for limit in limits if limit is not None)
        size = _CHUNK_BYTES
        if self.fault.bytes_per_second is not None:
            # About ten chunks a second.
            size = max(1, min(size, int(self.fault.bytes_per_second / 10)))
        with path.open("rb") as file:
            file.seek(position)
            while position < stop:
                chunk = file.read(min(size, stop - position))
                flips = self.fault.flips
                if flips is not None and position <= flips < position + len(chunk):
                    at = flips - position
                    chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
                yield chunk
                position += len(chunk)

    async def _break_off(self) -> None:
        if self.fault.hang_after is not None:
            await self._stopping.wait()
        transport = self._request.transport
        if transport is None:
            return
        if self.fault.resets:
            sock = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        else:
            transport.close()
