"""One of several workers: a service on listeners that its parent bound, at the other end of a socket pair.

A worker takes the parent's orders from that pair alone, so that a signal to the whole process group counts
once. A signal to a worker by itself only makes it drain. When the pair ends the parent is gone, killed most
likely: then nobody would start what is missing or end what is left, so the worker drains and ends too.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from hotstart.wire.errors import HotstartError
from hotstart_proxy.telemetry.gathering import Snapshot
from hotstart_proxy.telemetry.logs import configure_logs
from hotstart_proxy.telemetry.metrics import render

from .lifecycle import loop_factory, serve_until
from .listeners import Listeners
from .messages import Kind, Message
from .problems import WorkersSilent
from .service import Service
from .settings import Settings

__all__ = ["run_worker"]

# More than a round of the parent's takes; less than the ten seconds that Prometheus waits for a scrape.
_GATHER_SECONDS = 4.0
# A snapshot is a line, and thousands of models make a long one.
_LONGEST_LINE_BYTES = 256 * 1024 * 1024
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_worker(
    settings: Settings,
    name: str,
    number: int,
    listeners: Listeners,
    parent: socket.socket,
    began: float,
) -> int:
    """Serve until the parent says otherwise or is gone; return the exit status.

    Expects SIGTERM and SIGINT to be blocked, and lets them in once it can take them.

    Args:
        settings: see there.
        name: of the proxy.
        number: of the worker.
        listeners: lent by the parent.
        parent: this end of the socket pair, from now on ours.
        began: when the proxy did, as ``Service`` takes it.
    """
    configure_logs(settings.log_format, settings.log_level, worker=number)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_work(settings, name, number, listeners, parent, began))


async def _work(
    settings: Settings,
    name: str,
    number: int,
    listeners: Listeners,
    parent: socket.socket,
    began: float,
) -> int:
    told = asyncio.Event()
    for end_signal in _END_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(end_signal, told.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS)
    reader, writer = await asyncio.open_unix_connection(sock=parent, limit=_LONGEST_LINE_BYTES)
    link = _ParentLink(reader, writer)
    # The first is the one that is always there: it is started first, and again whenever it ends.
    service = Service(settings, listeners, link.scrape, name, polls=number == 1, began=began)
    listening = asyncio.create_task(link.listen(service.metrics.snapshot, told.set, service.close_admin))
    try:
        await serve_until(told, service, lambda: link.send(Message(Kind.SERVING)))
        # What was counted since the last scrape.
        link.send(Message(Kind.METRICS, snapshot=service.metrics.snapshot()))
        return 0
    except HotstartError as error:
        # Said by the parent, once, whichever and how many workers meet it.
        link.send(Message(Kind.FAILED, reason=str(error)))
        return 1
    finally:
        listening.cancel()
        await link.close()


class _ParentLink:
    """A worker's end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._questions: dict[int, asyncio.Future[Snapshot]] = {}
        self._asked = 0

    def send(self, message: Message) -> None:
        self._writer.write(message.dump())

    async def scrape(self) -> bytes:
        """Return the metrics of all workers.

        Raises:
            WorkersSilent: the parent did not answer.
        """
        self._asked += 1
        question = self._asked
        future: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._questions[question] = future
        try:
            self.send(Message(Kind.GATHER, question))
            async with asyncio.timeout(_GATHER_SECONDS):
                return render(await future)
        except TimeoutError as error:
            raise WorkersSilent from error
        finally:
            del self._questions[question]

    async def listen(
        self, snapshot: Callable[[], Snapshot], drain: Callable[[], None], orphaned: Callable[[], None]
    ) -> None:
        """Do what the parent says until it is gone."""
        while line := await self._line():
            message = Message.parse(line)
            if message.kind is Kind.ASK:
                self.send(Message(Kind.METRICS, snapshot=snapshot()))
            elif message.kind is Kind.GATHERED:
                self._answered(message)
            elif message.kind is Kind.DRAIN:
                drain()
        # The next parent wants the socket's name, and readiness is no longer ours to tell.
        orphaned()
        drain()

    def _answered(self, message: Message) -> None:
        future = self._questions.get(message.question)
        if future is not None and not future.done():
            future.set_result(message.snapshot)

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """Send what is not sent yet, unless nobody takes it."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            # The parent is gone.
            return
