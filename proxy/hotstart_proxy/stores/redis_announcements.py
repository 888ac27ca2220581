"""Pub/sub of one Redis: proxies that share it tell each other which models have news.

A message is a model's name, and is trusted for nothing else. None is kept: whoever was not there when one was
sent finds out by polling.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import RedisError

from hotstart.wire.errors import InvalidReference
from hotstart.wire.references import check_model
from hotstart_proxy.core.polling import Learned
from hotstart_proxy.telemetry.logs import log_event

from .redis_keys import PREFIX
from .redis_link import new_client
from .redis_urls import RedisPlace

__all__ = ["CHANNEL", "RedisAnnouncements"]

_log = logging.getLogger("hotstart_proxy.announcements")
CHANNEL: Final = f"{PREFIX}published"
_TIMEOUT_SECONDS: Final = 5.0
# After so long without a word it is asked whether the connection still is one.
_QUIET_SECONDS: Final = 15.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_MOST_MODEL_BYTES: Final = 256
_ERRORS = (RedisError, OSError, TimeoutError)


class RedisAnnouncements:
    """One channel. In a cluster any node will do: they pass messages on to each other."""

    name = "pub/sub"
    learned = Learned.PUBSUB

    def __init__(
        self,
        place: RedisPlace,
        *,
        quiet_seconds: float = _QUIET_SECONDS,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
    ) -> None:
        """Name a Redis; nothing is connected before the first use.

        Args:
            place: where it is.
            quiet_seconds: of silence, after which the connection is tried.
            first_pause_seconds: before it is connected again; doubled with each failure.
        """
        self._place = place
        self._quiet_seconds = quiet_seconds
        self._first_pause_seconds = first_pause_seconds
        self._node = 0
        self._client: Any = None

    async def publish(self, model: str) -> None:
        """Tell all who listen that a model has news; a failure is logged, and found out by polling."""
        if self._client is None:
            self._client = self._connect()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._client.execute_command("PUBLISH", CHANNEL, model)
        except _ERRORS as error:
            fields = {"store": self._place.url, "model": model, "reason": _reason(error)}
            log_event(_log, logging.WARNING, "a new version could not be announced", fields)
            await self.close()
            self._node += 1

    async def listen(self, trouble: Callable[[str | None], None]) -> AsyncGenerator[str, None]:
        """Yield the models that are announced, one's own announcements included, for ever.

        Args:
            trouble: told why nothing can be heard, and None when it can.
        """
        failures = 0
        while True:
            client = self._connect()
            try:
                async with client.pubsub() as channel:
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        await channel.subscribe(CHANNEL)
                    while True:
                        data = await self._next(channel)
                        failures = 0
                        trouble(None)
                        if data is not None and (model := _model_of(data)) is not None:
                            yield model
            except _ERRORS as error:
                self._node += 1
                pause = min(_LONGEST_PAUSE_SECONDS, self._first_pause_seconds * 2.0 ** min(failures, 30))
                failures += 1
                trouble(f"announcements of new versions are not heard: {_reason(error)}")
            finally:
                await client.aclose()
            await asyncio.sleep(pause * (1 - 0.5 * random.random()))  # noqa: S311  jitter, no secret

    async def _next(self, channel: Any) -> bytes | None:
        """Return what was sent next; None for everything else that shows that the connection is alive."""
        message = await channel.get_message(timeout=self._quiet_seconds)
        if message is None:
            await channel.ping()
            message = await channel.get_message(timeout=_TIMEOUT_SECONDS)
            if message is None:
                raise TimeoutError(f"Redis does not answer within {_TIMEOUT_SECONDS:g} s")
        return message["data"] if message["type"] == "message" else None

    def _connect(self) -> Any:
        place = self._place
        if place.cluster:
            # No slot is concerned, so a plain connection to any node serves.
            place = replace(place, cluster=False, nodes=(place.nodes[self._node % len(place.nodes)],))
        return new_client(place, _TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Let go of the connection by which is published; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _model_of(data: bytes) -> str | None:
    """Return the name that a message is, if it is one in full; None for anything else."""
    try:
        text = data[:_MOST_MODEL_BYTES].decode("ascii")
        model = check_model(text)
    except (UnicodeDecodeError, InvalidReference):
        model = None
    if model is None or model.encode() != data:
        log_event(_log, logging.DEBUG, "a message that names no model was dropped", {"message": data[:80]})
        return None
    return model


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
