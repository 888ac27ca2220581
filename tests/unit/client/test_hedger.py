"""A second connection beside a stuck one: whose bytes count, and what becomes of it. Sources are scripted."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from hotstart.engine import patience
from hotstart.engine.planning import Verification
from hotstart.engine.targets import WholeTarget
from hotstart.engine.transfer import Request, Transfer, TransferAborted
from hotstart.sources.base import Body, Session, Source, SourceError, SourceKind
from hotstart.sources.chain import Chain
from hotstart.wire.manifest import File, OriginObject, Representation
from hotstart.wire.ranges import ByteRange
from tests.support.deadlines import DEADLINE_SECONDS, TIME_SCALE, wait_until

SIZE = 1024 * 1024
# So that a second connection brings less than the whole before its request is its own.
RECEIVE_BYTES = 64 * 1024


class Scripted(Source):
    """Serves one byte over and over; a test says what happens before each read.

    Attributes:
        sessions: all that were opened, in order.
        before_read: is given the session whose body is read.
        before_fetch: is given the session that is asked.
        is_there: whether it has anything.
    """

    def __init__(self, name: str, kind: SourceKind, byte: bytes) -> None:
        self.name = name
        self.kind = kind
        self.byte = byte
        self.sessions: list[ScriptedSession] = []
        self.before_fetch: Callable[[ScriptedSession], None] = lambda session: None
        self.before_read: Callable[[ScriptedSession], None] = lambda session: None
        self.is_there = True

    def has(self, representation: Representation) -> bool:
        return self.is_there

    def session(self) -> Session:
        session = ScriptedSession(self)
        self.sessions.append(session)
        return session


class ScriptedSession(Session):
    def __init__(self, source: Scripted) -> None:
        self.source = source
        self.is_closed = threading.Event()

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        self.source.before_fetch(self)
        self.check_open()
        return ScriptedBody(self, len(wanted))

    def close(self) -> None:
        self.is_closed.set()

    def check_open(self) -> None:
        if self.is_closed.is_set():
            raise SourceError(self.source.name, "reading", "it was closed from our side", transient=False)


class ScriptedBody(Body):
    def __init__(self, session: ScriptedSession, length: int) -> None:
        self.length = length
        self._session = session
        self._left = length

    def readinto(self, buffer: memoryview) -> int:
        self._session.source.before_read(self._session)
        self._session.check_open()
        count = min(len(buffer), self._left, RECEIVE_BYTES)
        buffer[:count] = self._session.source.byte * count
        self._left -= count
        return count

    def close(self) -> None:
        pass


def target(size: int = SIZE) -> WholeTarget:
    return WholeTarget(File("m", size, None, "c" * 64, "x/y", OriginObject("k", '"e"')))


def chain(*sources: Source) -> Chain:
    def link(source: Source) -> Callable[[], Source]:
        return lambda: source

    return Chain("loading m", [link(source) for source in sources])


def transfer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hotstart-transfer"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FLOOR_SECONDS", 0.05 * TIME_SCALE)


@pytest.mark.parametrize("change", ["given up", "nearer one there"])
def test_bytes_of_another_source_than_the_current_one_are_not_used(change: str) -> None:
    """What a second connection brought is dropped where its source is not the one to ask any more."""
    stuck = Scripted("stuck", SourceKind.TCP, b"x")
    other = Scripted("other", SourceKind.UNIX, b"y")
    other.is_there = change == "given up"
    sources = chain(stuck, other) if other.is_there else chain(other, stuck)
    lost = SourceError("stuck", "reading", "another worker lost it", transient=False)

    def before_read(session: ScriptedSession) -> None:
        if session is stuck.sessions[0]:
            session.is_closed.wait(DEADLINE_SECONDS)
        elif change == "given up":
            sources.give_up(stuck, lost)
        else:
            other.is_there = True

    stuck.before_read = before_read
    wanted = target()
    transfer = Transfer("loading m", sources, Verification.AUTO)
    transfer.start([wanted])
    transfer.wait()
    assert wanted.data.count(b"y") == SIZE
    assert sources.used == {"other": SIZE}
    assert sources.failures() == ([lost] if change == "given up" else [])


def test_a_second_connection_that_waits_ends_with_the_transfer() -> None:
    """Once all is there, whatever the second connection still waits for is cut, and no thread stays."""
    source = Scripted("slow", SourceKind.TCP, b"x")
    second_asks = threading.Event()

    def before_fetch(session: ScriptedSession) -> None:
        if session is not source.sessions[0]:
            second_asks.set()
            session.is_closed.wait(DEADLINE_SECONDS)

    source.before_fetch = before_fetch
    source.before_read = lambda session: assert_true(second_asks.wait(DEADLINE_SECONDS))
    transfer = Transfer("loading m", chain(source), Verification.AUTO)
    transfer.start([target()])
    transfer.wait()
    assert source.sessions[1].is_closed.wait(DEADLINE_SECONDS / 2)
    wait_until("the threads to end", lambda: not transfer_threads())


def assert_true(condition: bool) -> None:
    assert condition


class TakenAtTheLastMoment(Transfer):
    """Takes each request away when its worker has seen that nobody did, and has not let go of it yet."""

    def let_go(self, request: Request) -> None:
        seen = request.waits_since = 1.0
        hedger = threading.Thread(target=self._take_quietly, args=(request, seen))
        hedger.start()
        wait_until("the request to be taken", lambda: request.is_taken)
        super().let_go(request)
        hedger.join()

    def _take_quietly(self, request: Request, since: float) -> None:
        with contextlib.suppress(TransferAborted):
            assert self.take(request, since) is None


def test_a_session_is_not_closed_under_the_next_request() -> None:
    """A worker whose request was taken away as it ended asks for the next one on a session of its own."""
    source = Scripted("well", SourceKind.TCP, b"x")
    wanted = [target(1000) for _ in range(9)]
    sources = chain(source)
    transfer = TakenAtTheLastMoment("loading m", sources, Verification.AUTO)
    transfer.start(wanted)
    transfer.wait()
    assert all(item.data == b"x" * 1000 for item in wanted)
    assert not sources.failures()
