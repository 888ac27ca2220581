"""A queue of S3 events, read by long polling: it says which models have news."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from hotstart.wire.errors import FormatError
from hotstart_proxy.core.polling import Learned
from hotstart_proxy.core.s3_events import read_message
from hotstart_proxy.telemetry.logs import log_event

from .base import OriginError
from .s3 import DEFAULT_REGION
from .s3_errors import translated

__all__ = ["SqsQueue", "SqsSettings"]

_log = logging.getLogger("hotstart_proxy.sqs")
# What SQS allows at most: fewest requests, and no later answers.
_WAIT_SECONDS = 20
_MOST_MESSAGES = 10
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_REGION_IN_HOST = re.compile(
    r"(?:sqs\.(?P<new>[a-z0-9-]+)|(?P<old>[a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class SqsSettings:
    """Which queue, and whose events in it count.

    Attributes:
        url: of the queue.
        bucket, prefix: of the origin; the prefix with a trailing slash, or empty.
        endpoint: where SQS is; None means AWS.
        region: of the queue; None means the profile's, or else us-east-1.
    """

    url: str
    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None

    @classmethod
    def of(cls, url: str, bucket: str, prefix: str, environ: Mapping[str, str]) -> SqsSettings:
        """Find endpoint and region: the region in the queue's own address, where it stands there."""
        match = _REGION_IN_HOST.fullmatch(urlsplit(url).hostname or "")
        region = (match["new"] or match["old"]) if match is not None else None
        region = region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        endpoint = environ.get("AWS_ENDPOINT_URL_SQS") or environ.get("AWS_ENDPOINT_URL")
        return cls(url, bucket, prefix, endpoint or None, region or None)


class SqsQueue:
    """One queue. Every message is deleted once it was read, whatever it says: each is worth one look."""

    name = "--sqs-queue"
    learned = Learned.SQS

    def __init__(self, settings: SqsSettings) -> None:
        self._settings = settings

    async def listen(self, trouble: Callable[[str | None], None]) -> AsyncGenerator[str, None]:
        """Yield models that have news, for ever.

        Args:
            trouble: told why the queue cannot be read, and None when it can.
        """
        failures = 0
        while True:
            try:
                with translated(self._settings.url, "reading the queue of S3 events"):
                    async with self._client() as client:
                        while True:
                            models = await self._receive(client)
                            failures = 0
                            trouble(None)
                            for model in models:
                                yield model
            except OriginError as error:
                failures += 1
                pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30))
                pause *= 1 - 0.5 * random.random()  # noqa: S311  jitter, no secret
                trouble(str(error))
                fields = {"reason": error, "again_in": round(pause, 3)}
                log_event(_log, logging.WARNING, "the queue of S3 events cannot be read", fields)
                await asyncio.sleep(pause)

    def _client(self) -> AbstractAsyncContextManager[Any]:
        # A session keeps the credentials that it has found: after a failure others may be there.
        session = AioSession()
        region = self._settings.region or session.get_config_variable("region") or DEFAULT_REGION
        client: AbstractAsyncContextManager[Any] = session.create_client(
            "sqs",
            region_name=str(region),
            endpoint_url=self._settings.endpoint,
            config=AioConfig(
                connect_timeout=5,
                read_timeout=_WAIT_SECONDS + 10,
                retries={"total_max_attempts": 1, "mode": "standard"},
            ),
        )
        return client

    async def _receive(self, client: Any) -> list[str]:
        """Wait for messages, and return what they say once they are deleted."""
        answer = await client.receive_message(
            QueueUrl=self._settings.url, MaxNumberOfMessages=_MOST_MESSAGES, WaitTimeSeconds=_WAIT_SECONDS
        )
        messages = answer.get("Messages", [])
        models = dict.fromkeys(model for message in messages for model in self._models(message))
        if messages:
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ]
            await client.delete_message_batch(QueueUrl=self._settings.url, Entries=entries)
        return list(models)

    def _models(self, message: Mapping[str, Any]) -> tuple[str, ...]:
        fields = {"message": message.get("MessageId")}
        try:
            found = read_message(str(message.get("Body", "")), self._settings.bucket, self._settings.prefix)
        except FormatError as error:
            fields["reason"] = str(error)
            log_event(_log, logging.WARNING, "a message that is no S3 event was dropped", fields)
            return ()
        if found.test:
            log_event(_log, logging.INFO, "S3 has tested the queue of events", fields)
        return found.models
