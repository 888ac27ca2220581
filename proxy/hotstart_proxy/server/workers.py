"""The parent of several workers: binds what they listen on, starts, watches, drains and ends them.

The parent is one thread without an event loop, so that it may fork at any time. Its workers are forks of it:
they share its settings, its imports' memory and its listening sockets, and one that is started days later
runs the same code as the first. Each worker accepts on the same sockets; whoever is free takes the next
connection.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from hotstart.wire.errors import HotstartError
from hotstart_proxy.core.supervision import Supervision
from hotstart_proxy.telemetry.logs import log_event
from hotstart_proxy.telemetry.metrics import RULES, ParentMetrics
from hotstart_proxy.telemetry.rounds import Rounds

from .listeners import Listeners, bind_listeners
from .messages import Kind, Lines, Message
from .service import made_up_name
from .settings import Settings
from .worker import run_worker

__all__ = ["CannotServe", "Workers"]

_log = logging.getLogger("hotstart_proxy.workers")
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_END_SIGNALS, signal.SIGCHLD)
# How long a scrape waits for a worker. A busy one answers within milliseconds.
_ROUND_SECONDS = 1.0
# Beyond the grace period: a worker closes files and sockets then, which takes no time unless it hangs.
_CLOSING_SECONDS = 10.0
_RECEIVE_BYTES = 256 * 1024


class CannotServe(HotstartError):
    """The workers cannot be started, or none stays up; the sentence is the worker's own where it had one."""


@dataclass(slots=True)
class _Child:
    """A running worker, seen from its parent.

    Attributes:
        number: its place, 1 to the number of workers; its successor has the same.
        serial: told apart by this from all others that ever were.
        channel: our end of the socket pair; does not block.
        unsent: what the channel did not take yet.
        reason: why it could not start, in a sentence, once it has said so.
    """

    number: int
    serial: int
    pid: int
    channel: socket.socket
    lines: Lines = field(default_factory=Lines)
    unsent: bytearray = field(default_factory=bytearray)
    reason: str = ""


class Workers:
    """All workers of one proxy. Runs once, in the main thread of a process without other threads."""

    def __init__(self, settings: Settings, announce: Callable[[Listeners], None]) -> None:
        """Prepare; nothing is bound or started yet.

        Args:
            settings: see there.
            announce: called once, when all workers serve.
        """
        self._settings = settings
        self._began = time.monotonic()
        self._announce = announce
        self._name = made_up_name()
        self._supervision = Supervision(settings.workers)
        self._metrics = ParentMetrics()
        self._rounds = Rounds(self._metrics.snapshot, RULES, _ROUND_SECONDS)
        self._selector = selectors.PollSelector()
        self._children: dict[int, _Child] = {}
        self._started = 0
        self._listeners: Listeners | None = None
        self._kill_at: float | None = None
        self._status = 0
        self._last_end = ""

    def run(self) -> int:
        """Serve until told to end; return the exit status.

        Raises:
            CannotListen: an address is in use, or the like.
            CannotServe: the workers do not start, or do not stay up.
        """
        near, far = socket.socketpair()
        with near, far, _Signals(far):
            near.setblocking(False)
            self._selector.register(near, selectors.EVENT_READ)
            self._listeners = bind_listeners(self._settings)
            # What is there now is never freed; a collector that marked it would copy it into every worker.
            gc.collect()
            gc.freeze()
            try:
                self._watch(near, far)
            finally:
                self._supervision.told = True
                self._kill_all()
                self._listeners.close()
        if self._supervision.failed:
            raise CannotServe(self._failure())
        return self._status

    def _failure(self) -> str:
        if self._supervision.established:
            return f"no worker stays up; the last: {self._last_end}"
        return self._last_end

    def _watch(self, signals: socket.socket, signals_in: socket.socket) -> None:
        while not self._supervision.over:
            now = time.monotonic()
            for number in self._supervision.due(now):
                self._start(number, (signals, signals_in))
            self._gather(now)
            for key, events in self._selector.select(self._timeout(time.monotonic())):
                if key.fileobj is signals:
                    # Of several that came together: workers that ended on the same signal are not missing.
                    for told in sorted(signals.recv(4096), key=lambda told: told == signal.SIGCHLD):
                        self._signalled(signal.Signals(told))
                elif key.data.serial in self._children:
                    self._talk(key.data, events)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._overdue()

    def _timeout(self, now: float) -> float | None:
        moments = (self._supervision.next_start(), self._rounds.deadline, self._kill_at)
        return min((max(0.0, moment - now) for moment in moments if moment is not None), default=None)

    # Starting

    def _start(self, number: int, signals: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # Else the worker would write once more what stands in them.
        sys.stdout.flush()
        sys.stderr.flush()
        # Blocked across the fork, so that the worker never runs our handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(number, theirs, (ours, *signals))
        except OSError as error:
            ours.close()
            self._supervision.started(number)
            self._lost(number, f"worker {number} could not be forked: {error.strerror}")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            theirs.close()
        self._started += 1
        child = _Child(number, self._started, pid, ours)
        self._children[child.serial] = child
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._supervision.started(number)

    def _become_worker(
        self, number: int, parent: socket.socket, not_ours: tuple[socket.socket, ...]
    ) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for caught in _SIGNALS:
                signal.signal(caught, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            # A worker that held an end of another's channel would hide the parent's death from it.
            for sock in (*not_ours, *(child.channel for child in self._children.values())):
                sock.close()
            assert self._listeners is not None
            status = run_worker(
                self._settings, self._name, number, self._listeners.lent(), parent, self._began
            )
        except BaseException:  # noqa: BLE001  the end of a process: nothing may get out into the parent's code
            _log.exception("a worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    # Talking

    def _talk(self, child: _Child, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(child)
        if events & selectors.EVENT_READ and self._receive(child) == 0:
            self._selector.unregister(child.channel)

    def _receive(self, child: _Child) -> int | None:
        """Take what has come; return how many bytes, 0 at the end, None if nothing is there now."""
        try:
            data = child.channel.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except ConnectionError:
            return 0
        for message in child.lines.feed(data):
            self._told_by(child, message)
        return len(data)

    def _told_by(self, child: _Child, message: Message) -> None:
        if message.kind is Kind.SERVING:
            self._rounds.joined(child.serial)
            log_event(_log, logging.INFO, "worker serves", {"worker": child.number, "pid": child.pid})
            if self._supervision.serving(child.number, time.monotonic()):
                assert self._listeners is not None
                self._announce(self._listeners)
        elif message.kind is Kind.FAILED:
            child.reason = message.reason
        elif message.kind is Kind.GATHER:
            self._rounds.asked(child.serial, message.question)
        elif message.kind is Kind.METRICS:
            self._rounds.answered(child.serial, message.snapshot)

    def _gather(self, now: float) -> None:
        step = self._rounds.step(now)
        for serial in step.ask:
            self._send(self._children[serial], Message(Kind.ASK))
        for reply in step.replies:
            self._send(
                self._children[reply.worker], Message(Kind.GATHERED, reply.question, snapshot=reply.snapshot)
            )

    def _send(self, child: _Child, message: Message) -> None:
        child.unsent += message.dump()
        self._flush(child)

    def _flush(self, child: _Child) -> None:
        # Gone: its end is seen elsewhere.
        with suppress(BlockingIOError, ConnectionError):
            while child.unsent:
                del child.unsent[: child.channel.send(child.unsent)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.unsent else 0)
        # Not registered: it has closed its end.
        with suppress(KeyError):
            self._selector.modify(child.channel, events, child)

    # Ending

    def _signalled(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:
            for child in list(self._children.values()):
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))
        elif self._supervision.told:
            # The stores are made for a kill at any point, and cleaning up is what is being waited for.
            self._status = 128 + number
            self._kill_all()
        else:
            self._supervision.told = True
            self._drain()

    def _drain(self) -> None:
        assert self._listeners is not None
        self._listeners.close_clients()
        self._kill_at = time.monotonic() + self._settings.grace_period + _CLOSING_SECONDS
        for child in self._children.values():
            self._send(child, Message(Kind.DRAIN))

    def _overdue(self) -> None:
        numbers = [child.number for child in self._children.values()]
        log_event(_log, logging.WARNING, "workers did not end in time and are killed", {"workers": numbers})
        self._kill_all()

    def _kill_all(self) -> None:
        children = list(self._children.values())
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        for child in children:
            self._ended(child, os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]))

    def _ended(self, child: _Child, status: int) -> None:
        """A child is reaped."""
        while self._receive(child):
            # Its last words: why it could not start, what it had counted.
            pass
        del self._children[child.serial]
        # Not registered: it had closed its end before.
        with suppress(KeyError):
            self._selector.unregister(child.channel)
        child.channel.close()
        self._rounds.left(child.serial)
        if self._supervision.told and status != 0:
            self._status = self._status or 1
        self._lost(child.number, child.reason or f"worker {child.number} {_end_of(status)}")

    def _lost(self, number: int, reason: str) -> None:
        """Decide what becomes of a worker that is gone."""
        self._last_end = reason
        again_in = self._supervision.ended(number, time.monotonic())
        if again_in is not None:
            self._metrics.replaced()
            log_event(
                _log,
                logging.WARNING,
                "a worker ended and is replaced",
                {"worker": number, "reason": reason, "in_seconds": again_in},
            )
        elif self._supervision.failed and self._kill_at is None:
            self._drain()


def _end_of(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


class _Signals:
    """While entered, the signals that concern the parent write their numbers to a socket, no more."""

    def __init__(self, sink: socket.socket) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        self._sink.setblocking(False)
        signal.set_wakeup_fd(self._sink.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _ignore) for number in _SIGNALS}

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number has been written to the wakeup descriptor."""
