"""Another hotstart proxy as the origin: a sidecar's is its node's proxy, a node's perhaps the subnet's.

It is read by the routes that any client has (docs/http-api.md). What comes is verified again, piece by piece,
and its fallback is passed on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from hotstart.wire import documents
from hotstart.wire.catalog import KnownIndex
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.opening import Fallback, Opening
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference, check_model
from hotstart_proxy.core.retries import RetryPolicy
from hotstart_proxy.core.tiers import Tier

from .base import OriginError, OriginUnreachable
from .models import ModelOrigin, VersionBlob
from .token_file import TokenFile
from .upstream_answers import Problem, is_absent, read_problem, refusal, translated
from .upstream_line import STALL_SECONDS, Attempts, UpstreamLine
from .upstream_reading import UpstreamReader, byte_headers

__all__ = ["UpstreamOrigin"]

# Whoever waits for a document gives up soon after this.
_POLICY = RetryPolicy(attempts=3, patience_seconds=8.0)
# Nobody needs a fallback as much as an answer: an opening goes without it while the upstream hangs.
_OPENING_POLICY = RetryPolicy(attempts=2, patience_seconds=2.0)
# The upstream looks at its origin again where its own answer is older than this, so that the times to live of
# a chain do not add up.
_FRESH = {"Cache-Control": "max-age=1"}
# What a parser of ours takes at most.
_MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
# Readers that miss together are redirected by one opening.
_FALLBACK_KEPT_SECONDS = 10.0
_MOST_FALLBACKS = 64
# What /v1/open takes.
_EXPIRY_BOUNDS_SECONDS = (60, 7 * 86400)
_LIST = "list of models"


@dataclass(frozen=True, slots=True)
class _Document:
    """A small answer; data is None for 304."""

    data: bytes | None
    etag: str | None


@dataclass(slots=True)
class _KeptFallback:
    """A version's fallback for a moment, in memory alone.

    Attributes:
        fallback: None where the upstream has none.
        asked_seconds: the life that was asked for.
        received_at: on the clock of ``UpstreamOrigin``.
        ids: content id of each representation that it is for.
    """

    fallback: Fallback | None
    asked_seconds: int
    received_at: float
    ids: Mapping[str, str]


@dataclass(slots=True)
class _Place:
    """One version's fallback, and who may ask for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    kept: _KeptFallback | None = None


class UpstreamOrigin(ModelOrigin):
    """Models at another proxy."""

    can_presign = True

    def __init__(
        self,
        url: str,
        name: str,
        token: TokenFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is needed to connect.

        Args:
            url: ``http://host:8470``, ``https://host`` or ``unix:/path``.
            name: this proxy's own, by which a loop is recognised.
            token: that the upstream wants; None if it wants none.
            clock: seconds that only rise.
        """
        self._line = UpstreamLine(url, name, token)
        self.url = self._line.origin
        self._clock = clock
        # The one asked for last stands last.
        self._fallbacks: dict[tuple[str, str], _Place] = {}
        # Why the last opening failed, and when.
        self._failed: tuple[str, float] | None = None

    async def __aenter__(self) -> UpstreamOrigin:
        await self._line.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._line.close()

    async def models(self) -> tuple[str, ...]:
        doing = "listing the models"
        document = await self._ask("/v1/models", doing, _FRESH)
        if document is None or document.data is None:
            raise OriginError(self.url, doing, "it says that there is no such list")
        try:
            return _parse_models(document.data)
        except FormatError as error:
            raise OriginError(self.url, doing, str(error)) from error

    async def index(self, model: str, now_ms: int, known: KnownIndex | None) -> KnownIndex | None:
        headers = dict(_FRESH)
        if known is not None and known.etag is not None:
            headers["If-None-Match"] = known.etag
        target = f"/v1/models/{Reference(model).url_path()}"
        document = await self._ask(target, f"reading the index of {model}", headers)
        if document is None:
            return None
        if document.data is None:
            return known
        index = await asyncio.to_thread(Index.parse, document.data)
        if index.model != model:
            raise FormatError("index", f"it is of {index.model}: expected {model}")
        return KnownIndex(index, document.etag, None)

    async def manifest(self, model: str, version: str, now_ms: int) -> bytes | None:
        reference = Reference(model, version)
        document = await self._ask(
            f"/v1/models/{reference.url_path()}", f"reading the manifest of {reference}"
        )
        return None if document is None else document.data

    @asynccontextmanager
    async def get(
        self, blob: VersionBlob, wanted: ByteRange, tier: Tier = Tier.STANDARD
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if not len(wanted):
            await self._check_unchanged(blob, tier)
            yield _nothing()
            return
        reader = UpstreamReader(self._line, blob, wanted, tier)
        try:
            await reader.open()
            yield reader.chunks()
        finally:
            await reader.close()

    async def _check_unchanged(self, blob: VersionBlob, tier: Tier) -> None:
        """Ask for no bytes, which no range can: what is there must still be what was asked for."""
        reference = Reference(blob.model, blob.version, blob.representation.path)
        doing = f"looking at {reference}"
        target = f"/v1/models/{reference.url_path()}"
        async with self._line.request("HEAD", target, byte_headers(blob, tier), doing) as answer:
            if answer.status != HTTPStatus.OK:
                raise refusal(self.url, doing, answer, await read_problem(answer))

    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        model, version = blobs[0].model, blobs[0].version
        place = self._fallbacks.pop((model, version), None) or _Place()
        self._fallbacks[model, version] = place
        while len(self._fallbacks) > _MOST_FALLBACKS:
            del self._fallbacks[next(iter(self._fallbacks))]
        low, high = _EXPIRY_BOUNDS_SECONDS
        asked = min(max(expires_in_seconds, low), high)
        async with place.lock:
            kept = place.kept
            age = 0.0 if kept is None else self._clock() - kept.received_at
            if kept is None or kept.asked_seconds != asked or age > _FALLBACK_KEPT_SECONDS:
                place.kept = kept = await self._open(model, version, asked)
                age = self._clock() - kept.received_at
        if kept.fallback is None:
            return None
        urls = {}
        for blob in blobs:
            path = blob.representation.path
            if kept.ids.get(path) != blob.representation.id or path not in kept.fallback.urls:
                return None
            urls[path] = kept.fallback.urls[path]
        # Whole seconds, rounded down: a URL must never be promised for longer than it lasts.
        left = int(kept.fallback.expires_in_seconds - age)
        return Fallback(urls, left) if left > 0 else None

    async def _open(self, model: str, version: str, expires_in_seconds: int) -> _KeptFallback:
        reference = Reference(model, version)
        doing = f"opening {reference}"
        # The life of the URLs counts from when the upstream made them, at the earliest when it was asked.
        asked_at = self._clock()
        if self._failed is not None and asked_at - self._failed[1] < _FALLBACK_KEPT_SECONDS:
            raise OriginUnreachable(self.url, doing, f"not asked again so soon after {self._failed[0]}")
        target = f"/v1/open/{reference.url_path()}?expires_in={expires_in_seconds}"
        try:
            document = await self._ask(target, doing, policy=_OPENING_POLICY)
        except OriginUnreachable as error:
            self._failed = (error.reason, self._clock())
            raise
        if document is None or document.data is None:
            return _KeptFallback(None, expires_in_seconds, asked_at, {})
        try:
            opening = await asyncio.to_thread(Opening.parse, document.data)
        except FormatError as error:
            raise OriginError(self.url, doing, str(error)) from error
        items = [item for file in opening.manifest.files for item in file.representations()]
        return _KeptFallback(
            opening.fallback, expires_in_seconds, asked_at, {item.path: item.id for item in items}
        )

    async def _ask(
        self,
        target: str,
        doing: str,
        headers: Mapping[str, str] | None = None,
        policy: RetryPolicy = _POLICY,
    ) -> _Document | None:
        """Ask for something small, again where that may help; None where the upstream says there is none."""
        attempts = Attempts(policy)
        while True:
            try:
                async with AsyncExitStack() as stack:
                    return await self._ask_once(stack, attempts, target, doing, headers or {})
            except OriginError as error:
                await attempts.recover(error)

    async def _ask_once(
        self,
        stack: AsyncExitStack,
        attempts: Attempts,
        target: str,
        doing: str,
        headers: Mapping[str, str],
    ) -> _Document | None:
        with translated(self.url, doing):
            async with attempts.waiting(STALL_SECONDS):
                answer = await stack.enter_async_context(self._line.request("GET", target, headers, doing))
                problem = None if answer.ok else await read_problem(answer)
            if answer.status == HTTPStatus.NOT_MODIFIED and "If-None-Match" in headers:
                return _Document(None, None)
            if problem is not None and is_absent(answer.status, problem):
                return None
            if answer.status != HTTPStatus.OK:
                raise refusal(self.url, doing, answer, problem or Problem())
            size = answer.content_length
            if size is None or size > _MAX_DOCUMENT_BYTES:
                reason = f"{size} bytes: expected at most {_MAX_DOCUMENT_BYTES}"
                raise OriginError(self.url, doing, reason)
            data = bytearray()
            while len(data) < size:
                async with attempts.waiting(STALL_SECONDS):
                    part = await answer.content.readany()
                if not part:
                    raise OriginUnreachable(
                        self.url, doing, f"the answer ended after {len(data)} of {size} bytes"
                    )
                attempts.received(len(part))
                data += part
        return _Document(bytes(data), answer.headers.get("ETag"))


def _parse_models(data: bytes) -> tuple[str, ...]:
    document = documents.load_json(data, _LIST)
    names = document.members.get("models")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(_LIST, "models: expected a list of strings")
    return tuple(sorted(document.check("models", check_model, name) for name in names))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
