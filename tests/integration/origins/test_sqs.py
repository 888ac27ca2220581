"""A queue of S3 events, read from moto's server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from hotstart_proxy.core.polling import Learned
from hotstart_proxy.origins import sqs
from hotstart_proxy.origins.sqs import SqsQueue, SqsSettings
from tests.integration.cache.reading import eventually
from tests.support.deadlines import DEADLINE_SECONDS, POLL_SECONDS
from tests.support.processes import Processes
from tests.support.sqs import SqsServer, object_created, sns_envelope

BUCKET = "models"
INDEX = "live/org/bert/.hotstart/index.json"


@pytest.fixture
def server(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsServer]:
    """A server that is found by the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    server = SqsServer(processes)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.close()


class Heard:
    """What a queue said, gathered by a task."""

    def __init__(self) -> None:
        self.models: asyncio.Queue[str] = asyncio.Queue()
        self.troubles: list[str | None] = []

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.models.get()

    async def gather(self, queue: SqsQueue) -> None:
        async for model in queue.listen(self.troubles.append):
            self.models.put_nowait(model)


@asynccontextmanager
async def heard(server: SqsServer) -> AsyncIterator[Heard]:
    queue = SqsQueue(SqsSettings.of(server.queue_url, BUCKET, "live/", os.environ))
    told = Heard()
    task = asyncio.create_task(told.gather(queue))
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def deleted(server: SqsServer) -> None:
    """Wait until the queue is empty."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await asyncio.to_thread(server.left):  # noqa: ASYNC110 - a server has no event
            await asyncio.sleep(POLL_SECONDS)


async def test_events_are_heard_and_deleted(server: SqsServer) -> None:
    """Every event of an index gives its model, waiting or not, and no message stays in the queue."""
    server.send(object_created(BUCKET, INDEX))
    async with heard(server) as told:
        assert await told.next() == "org/bert"
        await asyncio.to_thread(
            server.send, sns_envelope(object_created(BUCKET, INDEX.replace("bert", "gpt")))
        )
        assert await told.next() == "org/gpt"
        await deleted(server)
        assert set(told.troubles) == {None}
    assert SqsQueue.learned is Learned.SQS


async def test_messages_of_others_are_dropped(server: SqsServer, caplog: pytest.LogCaptureFixture) -> None:
    """What is no event of S3's is logged and deleted, and the next event is heard."""
    for body in ("hello", '{"Records": [7]}', object_created("other", INDEX), '{"Event": "s3:TestEvent"}'):
        server.send(body)
    async with heard(server) as told:
        await deleted(server)
        await asyncio.to_thread(server.send, object_created(BUCKET, INDEX))
        assert await told.next() == "org/bert"
        assert told.models.empty()
    assert caplog.text.count("a message that is no S3 event was dropped") == 2


async def test_a_server_that_goes_and_comes(server: SqsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that cannot be read is told, asked again after a pause, and read on when it is back."""
    monkeypatch.setattr(sqs, "_FIRST_PAUSE_SECONDS", 0.1)
    async with heard(server) as told:
        server.send(object_created(BUCKET, INDEX))
        assert await told.next() == "org/bert"
        assert server.process is not None
        server.process.kill()
        await eventually(lambda: told.troubles[-1])
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.send, object_created(BUCKET, INDEX))
        assert await told.next() == "org/bert"
        assert told.troubles[-1] is None


async def test_a_queue_that_is_not_there(server: SqsServer) -> None:
    """A queue that does not exist is trouble that names it, and no crash."""
    server.queue_url += "-of-others"
    async with heard(server) as told:
        await eventually(lambda: told.troubles)
    assert "models-of-others" in str(told.troubles[0])


@pytest.mark.parametrize(
    ("url", "environ", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123/models", {"AWS_REGION": "us-west-2"}, "eu-west-1"),
        ("https://eu-west-1.queue.amazonaws.com/123/models", {}, "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123/models", {}, "cn-north-1"),
        ("http://127.0.0.1:9324/123/models", {"AWS_REGION": "us-west-2"}, "us-west-2"),
        ("http://127.0.0.1:9324/123/models", {"AWS_DEFAULT_REGION": "us-west-1"}, "us-west-1"),
        ("http://127.0.0.1:9324/123/models", {}, None),
    ],
)
def test_the_region(url: str, environ: dict[str, str], region: str | None) -> None:
    """The region is the one in the queue's address, or the environment's."""
    assert SqsSettings.of(url, BUCKET, "", environ).region == region


def test_the_endpoint() -> None:
    """The endpoint for SQS goes before the one for all of AWS; without one it is AWS."""
    url = "http://127.0.0.1:9324/123/models"
    both = {"AWS_ENDPOINT_URL_SQS": "http://sqs", "AWS_ENDPOINT_URL": "http://all"}
    assert SqsSettings.of(url, BUCKET, "", both).endpoint == "http://sqs"
    assert SqsSettings.of(url, BUCKET, "", {"AWS_ENDPOINT_URL": "http://all"}).endpoint == "http://all"
    assert SqsSettings.of(url, BUCKET, "", {}).endpoint is None
