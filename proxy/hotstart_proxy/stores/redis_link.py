"""The way to Redis: one client, its errors as ours, and no waiting for a Redis that is known to be away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hotstart_proxy.telemetry.logs import log_event

from .base import NoSpaceNow, StoreError
from .redis_keys import PREFIX
from .redis_scripts import Script
from .redis_urls import RedisPlace
from .redis_values import Node, RedisValues, Unread

__all__ = ["RedisLink", "new_client"]

T = TypeVar("T")
_log = logging.getLogger("hotstart_proxy.store")
# A chunk takes 2 ms of Redis's only thread, so that four at a time keep it busy; each needs its 4 MiB, and
# what redis-py sends or reads twice that, on our side meanwhile.
_BULK_AT_ONCE: Final = 4
_SMALL_AT_ONCE: Final = 16
# Commands sent together: few enough that their answers are a moment's work for Redis.
_BATCH: Final = 500
_SCAN_COUNT: Final = 1000
# Larger than asyncio's own buffer, so that what has arrived is taken in one step.
_READ_BYTES: Final = 1024 * 1024
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_OURS: Final = ("Redis does not answer: ", "Redis answers", "Redis is full ", "Redis does not keep ")
# What says that Redis as a whole does not work now, whatever was asked of it.
_AWAY = (
    RedisConnectionError,
    RedisTimeoutError,
    RedisClusterException,
    ClusterDownError,
    BusyLoadingError,
    ReadOnlyError,
    TryAgainError,
    OSError,
    TimeoutError,
)


class RedisLink:
    """A client of one Redis, for the tasks of one event loop.

    Attributes:
        url: as it may be shown.
        trouble: why Redis does not answer, while it does not: every call fails at once then, and a task looks
            for it in growing steps.
    """

    def __init__(
        self, place: RedisPlace, timeout_seconds: float, came: Callable[[], Awaitable[None]]
    ) -> None:
        """Name a Redis; nothing is connected before ``open``.

        Args:
            place: where it is.
            timeout_seconds: what one request may take, a new connection included.
            came: called when Redis answers, for the first time or again; where it fails, it is called once
                more.
        """
        self.url = place.url
        self.trouble: str | None = None
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._came = came
        self._client: Any = None
        self._values = RedisValues(place, self._node_of)
        self._bulk = asyncio.Semaphore(_BULK_AT_ONCE)
        self._small = asyncio.Semaphore(_SMALL_AT_ONCE)
        self._looking: asyncio.Task[None] | None = None
        self._since = 0.0

    async def open(self) -> None:
        """Connect; if Redis is away, the trouble says so, and it is looked for."""
        self._client = new_client(self._place, self._timeout_seconds)
        try:
            await self._meet()
        except StoreError as error:
            self._lost(error.reason)

    async def close(self) -> None:
        """Let go of all connections."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
        await self._values.close()
        if self._client is not None:
            await self._client.aclose()

    async def command(self, doing: str, *arguments: Any, bulk: bool = False, **options: Any) -> Any:
        """Send one command and return its answer.

        Args:
            doing: completes "… : what happened" in an error.
            arguments: the command's name first.
            bulk: it moves a chunk.
            options: redis-py's.

        Raises:
            StoreError: it failed, or Redis is away.
            NoSpaceNow: Redis has no room.
        """
        return await self._call(doing, lambda: self._client.execute_command(*arguments, **options), bulk=bulk)

    async def value(self, doing: str, key: str, length: int) -> bytes | bytearray | None:
        """Return a large value; None if there is none, or none of that length (errors as ``command``)."""

        async def work() -> bytes | bytearray | None:
            try:
                return await self._values.get(key, length)
            except Unread:
                data: bytes | None = await self._client.execute_command("GET", key)
                return data

        return await self._call(doing, work, bulk=True)

    def _node_of(self, key: str) -> Node:
        try:
            node = self._client.get_node_from_key(key)
        except RedisClusterException as error:
            raise Unread(str(error)) from error
        if node is None:
            raise Unread("the node is not known yet")
        return node.host, int(node.port)

    async def run(self, doing: str, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script on keys of one slot and return its answer (errors as ``command``)."""

        async def work() -> Any:
            rest = (len(keys), *keys, *arguments)
            try:
                return await self._client.execute_command("EVALSHA", script.sha1, *rest)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.text, *rest)

        return await self._call(doing, work)

    async def many(self, doing: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, each on one key, and return their answers (errors as ``command``)."""
        answers: list[Any] = []
        for start in range(0, len(commands), _BATCH):
            batch = commands[start : start + _BATCH]

            async def work(batch: Sequence[tuple[Any, ...]] = batch) -> Any:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for arguments in batch:
                        pipeline.execute_command(*arguments)
                    return await pipeline.execute()

            answers += await self._call(doing, work)
        return answers

    async def keys(self, doing: str, pattern: str = f"{PREFIX}*") -> AsyncIterator[bytes]:
        """Yield the names of all keys that match, some perhaps twice (errors as ``command``)."""
        nodes: Sequence[Any] = [None]
        if self._place.cluster:
            await self._call(doing, self._client.initialize)
            nodes = self._client.get_primaries()
        for node in nodes:
            target = {} if node is None else {"target_nodes": node}
            cursor = 0
            while True:
                arguments = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
                cursor, names = await self.command(doing, *arguments, **target)
                if isinstance(cursor, dict):
                    # A cluster's, by node.
                    (cursor,) = cursor.values()
                for name in names:
                    yield name
                if not cursor:
                    break

    async def information(self, doing: str, section: str) -> list[dict[str, Any]]:
        """Return a section of INFO of every server that holds data (errors as ``command``)."""
        if not self._place.cluster:
            return [await self.command(doing, "INFO", section)]
        target = self._client.PRIMARIES
        answer = await self.command(doing, "INFO", section, target_nodes=target)
        # One primary's answer comes as it is, several by node.
        return [answer] if "used_memory" in answer else list(answer.values())

    async def _call(self, doing: str, work: Callable[[], Awaitable[T]], *, bulk: bool = False) -> T:
        async with self._bulk if bulk else self._small:
            if self.trouble is not None:
                raise StoreError(self.url, doing, self.trouble)
            return await self._try(doing, work)

    async def _try(self, doing: str, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await _cancellable(work())
        except _AWAY as error:
            reason = self._lost(_reason(error, self._timeout_seconds))
            raise StoreError(self.url, doing, reason) from error
        except RedisError as error:
            text = str(error)
            # A script's own is not told apart by redis-py.
            if isinstance(error, OutOfMemoryError) or "OOM " in text:
                reason = f"Redis is full ({text}): raise its maxmemory, or lower the budget under it"
                raise NoSpaceNow(self.url, doing, reason) from error
            raise StoreError(self.url, doing, f"Redis answers: {text}") from error

    async def _meet(self) -> None:
        doing = "looking for Redis"
        if self._place.cluster:
            await self._try(doing, lambda: self._client.ping(target_nodes=self._client.PRIMARIES))
        else:
            await self._try(doing, self._client.ping)
        self.trouble = None
        await self._came()

    def _lost(self, reason: str) -> str:
        if self.trouble is None:
            self._since = time.monotonic()
            log_event(_log, logging.WARNING, "Redis is away", {"store": self.url, "reason": reason})
        self.trouble = reason if reason.startswith(_OURS) else f"Redis does not answer: {reason}"
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return self.trouble

    async def _look(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                await self._meet()
            except StoreError as error:
                self._lost(error.reason)
            except Exception as error:  # noqa: BLE001  nobody else looks for it
                self._lost(f"Redis answers what is not understood: {error!r}")
                fields = {"store": self.url, "error": repr(error)}
                log_event(_log, logging.ERROR, "looking at what is in Redis failed", fields)
            if self.trouble is None:
                break
        self._looking = None
        away = round(time.monotonic() - self._since, 1)
        log_event(_log, logging.INFO, "Redis is back", {"store": self.url, "seconds": away})


async def _cancellable(work: Awaitable[T]) -> T:
    """Wait for work, and end with a cancellation that redis-py has swallowed, as its cluster client may."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        answer = await work
    except (RedisError, OSError):
        if task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


def _reason(error: BaseException, timeout_seconds: float) -> str:
    # asyncio's own has no text.
    return str(error) or f"nothing came within {timeout_seconds:g} s"


def new_client(place: RedisPlace, timeout_seconds: float) -> Any:
    """Return a client of redis-py, whose type we do not use: its stubs lack raw commands and clusters."""
    options: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "protocol": 2,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_read_size": _READ_BYTES,
        # Once, at once: a connection that was idle while Redis was restarted is found broken when used.
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
    }
    if place.tls is not None:
        options |= {"ssl": True, **place.tls}
    if place.cluster:
        nodes = [ClusterNode(host, port) for host, port in place.nodes]
        return RedisCluster(startup_nodes=nodes, **options)
    options["db"] = place.database
    if place.unix is not None:
        return Redis(unix_socket_path=place.unix, **options)
    (host, port), *_ = place.nodes
    return Redis(host=host, port=port, **options)
