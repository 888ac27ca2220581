"""A transfer: targets, the requests that are left for them, and the threads that work these off.

One condition guards the schedule. Threads come up as there is work for them, and end when every target is
done, at the first error, or when the transfer is aborted; then their sessions are closed under their hands,
so that none of them waits on a socket, as the hedger may also when all is done. They are daemons: an
interpreter that ends does not wait for them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from hotstart.sources.base import Session, Source, SourceKind
from hotstart.sources.chain import Chain
from hotstart.wire.errors import HotstartError
from hotstart.wire.ranges import ByteRange

from .cpus import usable_cpus
from .decoding import Decoders
from .meter import Meter
from .patience import Patience
from .planning import (
    ITEM_BYTES,
    MAX_BUFFERING_WORKERS,
    Verification,
    decoder_count,
    grown_count,
    worker_count,
)
from .targets import Target, TwinPlan
from .weights import TensorReady

if TYPE_CHECKING:
    from .picking import Picker

__all__ = ["Clock", "ForkedProcess", "Request", "Transfer", "TransferAborted"]

# A thread that is told to end does so within a read or a decoded frame; an import lock can hold it longer.
_JOIN_SECONDS = 5.0
# How often the hedger looks: a stuck request is noticed at most so much of the limit too late.
_LOOKS_A_LIMIT = 4


class ForkedProcess(HotstartError):
    """A transfer was begun before the process forked, and is waited for in the child.

    Attributes:
        doing: what was begun.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(
            f"{doing} was begun before this process was forked, and its threads stayed in the parent: "
            f"begin it after the fork (in gunicorn, in post_fork or post_worker_init)"
        )


class TransferAborted(HotstartError):
    """A transfer was stopped by whoever began it.

    Attributes:
        doing: what was stopped.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(f"{doing} was stopped")


def _nothing() -> None:
    pass


class Request:
    """Bytes to ask for, owned by one worker at a time.

    Attributes:
        target: whose.
        position: the next identity byte; what lies before it is never asked for again.
        stop: where it ends.
        quiet: the bytes replace damaged ones that were reported already.
        is_plain: identity is asked for, whatever the target's other bytes come as.
        waits_since: when the wait for its next bytes began; None while nothing is waited for.
        session: that it is being received with.
        is_hedged: it was asked for a second time; that happens once.
        is_taken: another worker goes on with it as soon as this one has let go.
    """

    __slots__ = (
        "is_hedged",
        "is_plain",
        "is_taken",
        "position",
        "quiet",
        "session",
        "stop",
        "target",
        "waits_since",
    )

    def __init__(
        self, target: Target, wanted: ByteRange, *, quiet: bool = False, is_plain: bool = False
    ) -> None:
        self.target = target
        self.position = wanted.start
        self.stop = wanted.stop
        self.quiet = quiet
        self.is_plain = is_plain
        self.waits_since: float | None = None
        self.session: Session | None = None
        self.is_hedged = False
        self.is_taken = False

    @property
    def twin(self) -> TwinPlan | None:
        """The twin that is asked for, None for identity."""
        return None if self.quiet or self.is_plain else self.target.twin


class Clock:
    """When things happened, in seconds of ``time.perf_counter``; None until they have."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_byte: float | None = None
        self.first_tensor: float | None = None
        self.ended: float | None = None


# A tensor; the target that is waited for, done; what ended it, None where all went well.
Event: TypeAlias = TensorReady | Target | BaseException | None


class Transfer:
    """Receives targets through a chain of sources.

    Attributes:
        chain: the sources.
        verification: what is checked.
        clock: of this transfer.
        retries: why something was asked for again, in order.
        decoders: shared by the workers.
        on_end: called once when it ends, however it ends; must not block.
        most_ahead_bytes: of tensors that nobody has taken yet, from where on no request is begun; None for
            any number. For whoever needs each tensor only once.
        forms: what was asked for, ``identity``, ``zstd`` or ``planes``, in order.
    """

    def __init__(
        self,
        doing: str,
        chain: Chain,
        verification: Verification,
        *,
        picker: Picker | None = None,
        stays: bool = False,
    ) -> None:
        """Prepare an empty transfer.

        Args:
            doing: for errors: ``"loading org/bert@7"``.
            chain: the sources.
            verification: what to check.
            picker: says what else to ask for while the transfer runs; None where nothing does.
            stays: does not end when its targets are done, but waits for more, with its connections open.
        """
        self.doing = doing
        self.chain = chain
        self.verification = verification
        self.clock = Clock()
        self.retries: list[str] = []
        self.on_end: Callable[[], object] = _nothing
        self.most_ahead_bytes: int | None = None
        self.forms: dict[str, None] = {}
        self._picker = picker
        self._pid = os.getpid()
        self._cpus = usable_cpus()
        self.decoders = Decoders(decoder_count(self._cpus))
        self._condition = threading.Condition()
        # Guards what is ahead alone. Innermost, since tensors are delivered under a target's lock.
        self._ahead_lock = threading.Lock()
        # All below are guarded by the condition.
        self._requests: deque[Request] = deque()
        self._active: set[Request] = set()
        self._patience = Patience()
        self._open_targets = int(stays)
        self._buffers = False
        self._kind = SourceKind.TCP
        self._threads: list[threading.Thread] = []
        # More connections than the source's kind alone asks for; the pace with fewer; what measures the pace,
        # None where that is settled.
        self._grown = 0
        self._pace_before = 0.0
        self._meter: Meter | None = None
        self._hedger: threading.Thread | None = None
        self._sessions: set[Session] = set()
        self._is_over = False
        # The target whose end is an event: nobody would take those of others, which would keep their memory.
        self._awaited: Target | None = None
        self._ahead_bytes = 0
        self._events: SimpleQueue[Event] = SimpleQueue()

    def deliver(self, tensor: TensorReady) -> None:
        """Hand a tensor to whoever iterates over this transfer; never blocks."""
        if self.clock.first_tensor is None:
            self.clock.first_tensor = time.perf_counter()
        if self.most_ahead_bytes is not None:
            with self._ahead_lock:
                self._ahead_bytes += len(tensor.data)
        self._events.put(tensor)

    def start(self, targets: Sequence[Target]) -> None:
        """Begin to receive; called once, unless the transfer stays.

        Raises:
            AllSourcesFailed: there is no source to begin with.
            FormatError: a file cannot be what its name says.
        """
        if targets:
            source = self.chain.current(targets[0].identity)
        with self._condition:
            if self._is_over:
                # Nobody would take away what is asked for now, nor let go of the targets.
                return
            self._open_targets += len(targets)
            self._buffers |= any(target.is_buffered for target in targets)
            for target in targets:
                self._requests.extend(Request(target, wanted) for wanted in target.begin())
            if targets:
                self._kind = source.kind
                self._spawn()
                self._condition.notify_all()
        for target in targets:
            # Nothing at all is wanted of it (an empty file).
            self.settle(target, ByteRange(0, 0))
        with self._condition:
            is_done = self._open_targets == 0
        if is_done:
            self._end(None)

    def __iter__(self) -> Iterator[TensorReady]:
        """Yield tensors as they become good, until all targets are done; for one thread.

        Raises:
            ForkedProcess: the transfer was begun in another process.
            HotstartError: what ended the transfer.
        """
        while (event := self._next_event()) is not None:
            if isinstance(event, TensorReady):
                yield event
                if self.most_ahead_bytes is not None:
                    self._taken(len(event.data))

    def _taken(self, count: int) -> None:
        with self._ahead_lock:
            self._ahead_bytes -= count
        self.wake()

    def _next_event(self) -> TensorReady | Target | None:
        if os.getpid() != self._pid:
            raise ForkedProcess(self.doing)
        event = self._events.get()
        if isinstance(event, TensorReady | Target):
            return event
        # Whoever asks again gets the same answer.
        self._events.put(event)
        if event is not None:
            raise event
        return None

    def receive(self, target: Target) -> list[TensorReady]:
        """Receive one more target of a transfer that stays, and return its tensors; for one thread at a time.

        Raises:
            HotstartError: what ended the transfer, for good.
        """
        ready: list[TensorReady] = []
        self._awaited = target
        try:
            self.start([target])
            while (event := self._next_event()) is not target:
                assert isinstance(event, TensorReady)
                ready.append(event)
        except BaseException:
            self.abort()
            raise
        finally:
            self._awaited = None
        return ready

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or was begun in another process; then it receives nothing more."""
        return self._is_over or os.getpid() != self._pid

    def wait(self) -> list[TensorReady]:
        """Wait for the end and return all tensors; abort if the wait is interrupted (errors as iterating)."""
        try:
            return list(self)
        except BaseException:
            self.abort()
            raise

    def complete(self) -> None:
        """End a transfer that stays, all of whose targets are done."""
        self._end(None)

    def abort(self) -> None:
        """Stop all threads, promptly and for good; idempotent. In a forked child there is nothing to stop."""
        if os.getpid() != self._pid:
            return
        self._end(TransferAborted(self.doing))
        for thread in (*self._threads, self._hedger):
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _end(self, event: Event) -> None:
        with self._condition:
            if self._is_over:
                return
            self._is_over = True
            self.clock.ended = time.perf_counter()
            self._requests.clear()
            sessions = list(self._sessions)
            self._condition.notify_all()
        self.on_end()
        self._events.put(event)
        for session in sessions:
            session.close()

    # What workers call.

    def next_request(self) -> Request | None:
        """Return the next request, waiting for one; None at the end. From then on it is the worker's."""
        with self._condition:
            while not self._is_over and not self._has_work():
                self._condition.wait()
            if self._is_over:
                return None
            request = self._requests.popleft()
            self._active.add(request)
            return request

    def _has_work(self) -> bool:
        if not self._requests:
            return False
        if self.most_ahead_bytes is not None and self._ahead_bytes > self.most_ahead_bytes:
            return False
        if not self._requests[0].target.is_buffered:
            return True
        # Where a twin was begun late, there may be more threads than may hold frames.
        return sum(request.target.is_buffered for request in self._active) < MAX_BUFFERING_WORKERS

    def let_go(self, request: Request) -> None:
        """Note that a worker is done with a request, or leaves the rest to the one that took it."""
        with self._condition:
            self._active.discard(request)
            if request.is_taken or request.target.is_buffered:
                self._condition.notify_all()

    def arrived(self, request: Request, count: int = 0) -> None:
        """Note that bytes of a request, or the head of their answer, are there."""
        now = time.perf_counter()
        if count and (meter := self._meter) is not None:
            meter.arrived(count, now)
        if count and self._picker is not None:
            self._picker.arrived(count, now)
        if request.waits_since is not None:
            self._patience.arrived(request.waits_since, now)
        request.waits_since = None
        if self.clock.first_byte is None:
            self.clock.first_byte = now

    # What the hedger calls.

    def next_stuck(self) -> tuple[Request, float] | None:
        """Wait for a request that has brought nothing for too long; None at the end.

        Returns:
            The request, hedged from now on, and since when it has been waiting.
        """
        with self._condition:
            while not self._is_over and (limit := self._patience.limit_seconds) is not None:
                now = time.perf_counter()
                for request in self._active:
                    since = request.waits_since
                    if since is None or request.is_hedged or not self._patience.is_due(since, now):
                        continue
                    request.is_hedged = True
                    self._patience.hedged()
                    return request, since
                # Nobody tells when a wait begins, so a look now and then; none while nothing is wanted.
                is_idle = not self._active and not self._requests
                self._condition.wait(None if is_idle else limit / _LOOKS_A_LIMIT)
            return None

    def take(self, request: Request, since: float) -> Request | None:
        """Take a stuck request away from its worker and return the rest, once the worker has let go of it.

        Its session is closed under the worker's hands. None where it got on meanwhile, or nothing is left.

        Raises:
            TransferAborted: the transfer has ended.
        """
        with self._condition:
            if request not in self._active or request.waits_since != since:
                return None
            request.is_taken = True
            session = request.session
            self._condition.notify_all()
        if session is not None:
            session.close()
        with self._condition:
            self._condition.wait_for(lambda: self._is_over or request not in self._active)
        self.check_running()
        if request.position >= request.stop:
            return None
        rest = ByteRange(request.position, request.stop)
        return Request(request.target, rest, is_plain=request.is_plain)

    def was_useless(self) -> None:
        """Note that a hedge did not help."""
        with self._condition:
            self._patience.was_useless()

    # What both call.

    def add(self, target: Target, ranges: Sequence[ByteRange]) -> None:
        """Add requests for a target."""
        if not ranges:
            return
        with self._condition:
            if self._is_over:
                return
            self._requests.extend(Request(target, wanted) for wanted in ranges)
            self._spawn()
            self._condition.notify_all()

    def settle(self, target: Target, good: ByteRange) -> list[int]:
        """Note that bytes of a target are good, and do what follows; return pieces to be checked now."""
        settled = target.settle(good)
        self.add(target, settled.requests)
        if settled.is_done:
            target.finish()
            with self._condition:
                self._open_targets -= 1
                is_last = self._open_targets == 0
            if target is self._awaited:
                self._events.put(target)
            if is_last:
                self._end(None)
        self._grow()
        if self._picker is not None:
            now = time.perf_counter()
            self._picker.done(len(good), now)
            for outdated, twin in self._picker.outdated(now):
                if self._change_over(outdated, twin):
                    self._picker.changed_over(outdated)
        return settled.pieces

    def _grow(self) -> None:
        """Use more connections where the last ones that were added paid."""
        meter = self._meter
        rate = None if meter is None else meter.rate(time.perf_counter())
        if rate is None:
            return
        with self._condition:
            if self._meter is not meter or self._is_over:
                return
            count = len(self._threads)
            wanted = grown_count(self._kind, count, rate, self._pace_before)
            self._meter = None
            if wanted > count:
                self._grown, self._pace_before = wanted, rate
                self._spawn()
                self._condition.notify_all()
                if len(self._threads) > count:
                    self._meter = Meter(len(self._threads) * ITEM_BYTES)

    def _change_over(self, target: Target, twin: TwinPlan | None) -> bool:
        """Ask for another representation of what no worker has begun; tell whether that could be done."""
        with self._condition:
            if self._is_over:
                return True
            own = [request for request in self._requests if request.target is target]
            left = [ByteRange(request.position, request.stop) for request in own]
            if not left:
                return True
            if not target.can_change_over(twin, left):
                return False
            anew, edges = target.change_over(twin, left)
            changed = [Request(target, wanted, is_plain=True) for wanted in edges]
            changed += [Request(target, wanted) for wanted in anew]
            others = [request for request in self._requests if request.target is not target]
            self._requests = deque([*changed, *others])
            self._buffers |= target.is_buffered
            self._condition.notify_all()
            return True

    def note_form(self, twin: TwinPlan | None) -> None:
        """Note what is being asked for."""
        name = "identity" if twin is None else twin.name
        if name not in self.forms:
            with self._condition:
                self.forms[name] = None

    def fail(self, error: BaseException) -> None:
        """End with an error; the first one counts."""
        self._end(error)

    def check_running(self) -> None:
        """Raise TransferAborted if the transfer has ended; the worker that meets it stops."""
        if self._is_over:
            raise TransferAborted(self.doing)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the transfer's end.

        Raises:
            TransferAborted: it has ended.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_over, seconds)
        self.check_running()

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Wait for what another worker is about to do, and says by ``wake`` that it has done.

        Raises:
            TransferAborted: the transfer ended meanwhile.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_over or predicate())
        self.check_running()

    def wake(self) -> None:
        """Let those who wait look again."""
        with self._condition:
            self._condition.notify_all()

    def note_retry(self, reason: str) -> None:
        """Note that something is asked for again, for the report."""
        with self._condition:
            self.retries.append(reason)

    def open_session(self, source: Source) -> Session:
        """Return a new session, closed when the transfer ends; add threads if the source wants more."""
        session = source.session()
        with self._condition:
            self._sessions.add(session)
            is_over = self._is_over
            if source.kind != self._kind and not is_over:
                self._kind = source.kind
                self._spawn()
                self._condition.notify_all()
        if is_over:
            session.close()
            raise TransferAborted(self.doing)
        return session

    def close_session(self, session: Session) -> None:
        """Close a session that a worker is done with."""
        with self._condition:
            self._sessions.discard(session)
        session.close()

    def _spawn(self) -> None:
        from .hedger import Hedger
        from .worker import Worker

        left = len(self._requests) + len(self._active)
        count = worker_count(self._kind, self._cpus, left, buffers=self._buffers)
        if self._grown > count:
            count = min(self._grown, left, MAX_BUFFERING_WORKERS if self._buffers else self._grown)
        while len(self._threads) < count:
            thread = threading.Thread(target=Worker(self).run, name="hotstart-transfer", daemon=True)
            self._threads.append(thread)
            thread.start()
        if self._hedger is None:
            self._meter = Meter(count * ITEM_BYTES)
            self._hedger = threading.Thread(target=Hedger(self).run, name="hotstart-transfer", daemon=True)
            self._hedger.start()
