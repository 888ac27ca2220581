"""The hedger: a thread that asks again for a request that is stuck, on a connection of its own.

Whichever connection brings the next byte first wins. Until the second one has brought a byte, the first is
left alone; then it is closed, and only when its worker has let go of the request does the hedger write into
the request's memory. So no byte ever has two writers. What the first connection brought is not asked for
again, save the part of a frame that lies in its worker's buffer.
"""

from __future__ import annotations

from hotstart.sources.base import Body, Session
from hotstart.wire.errors import HotstartError
from hotstart.wire.manifest import Representation
from hotstart.wire.ranges import ByteRange

from .transfer import Request, TransferAborted
from .worker import Worker

__all__ = ["Hedger"]

# What is received before the request is the hedger's: as much as a socket gives at once on a network.
_FIRST_BYTES = 64 * 1024


class Hedger(Worker):
    """One thread of a transfer; it has work only where something is stuck."""

    _begun: _Begun | None = None

    def run(self) -> None:
        """Hedge until the transfer ends."""
        transfer = self._transfer
        try:
            while (stuck := transfer.next_stuck()) is not None:
                self._hedge(*stuck)
                self._mend_all()
        except TransferAborted:
            pass
        except BaseException as error:  # noqa: BLE001 - a thread's end: whoever waits gets it
            transfer.fail(error)
        finally:
            self._leave()

    def _hedge(self, request: Request, since: float) -> None:
        try:
            begun = self._begin(request)
        except HotstartError:
            # The request is still its worker's, which will see for itself what is wrong.
            self._transfer.check_running()
            self._leave()
            self._transfer.was_useless()
            return
        with begun:
            rest = self._transfer.take(request, since)
            if rest is None:
                self._transfer.was_useless()
                return
            self._transfer.note_retry(
                f"{begun.source_name}: no byte came of {begun.representation.path} from {rest.position} on: "
                f"another connection took over"
            )
            self._begun = begun
            self._perform(rest)

    def _begin(self, request: Request) -> _Begun:
        """Ask for the rest of a request and receive the first bytes of it, into memory of our own."""
        source = self._enter(request.target)
        assert self._session is not None
        self._frame_of = ("", 0)
        target, twin = request.target, request.twin
        representation, wanted = target.identity, ByteRange(request.position, request.stop)
        if twin is not None:
            entries = twin.table.frames_for(wanted)
            representation = twin.representation
            wanted = ByteRange(entries[0].stored.start, entries[-1].stored.stop)
        body = self._session.fetch(target.file, representation, wanted)
        head = memoryview(bytearray(min(_FIRST_BYTES, len(wanted))))
        try:
            count = body.readinto(head)
        except BaseException:
            body.close()
            raise
        return _Begun(source.name, self._session, representation, wanted, body, head[:count])

    def _fetch(self, request: Request, representation: Representation, wanted: ByteRange) -> Body:
        begun, self._begun = self._begun, None
        # Another range where the first connection brought a last byte before it was closed; another session
        # where the source was given up, or a nearer one has it now: these bytes would count as that one's.
        if (
            begun is not None
            and begun.session is self._session
            and (begun.representation, begun.wanted) == (representation, wanted)
        ):
            return begun
        if begun is not None:
            begun.close()
        return super()._fetch(request, representation, wanted)


class _Begun(Body):
    """A body of which the first bytes were received already."""

    def __init__(
        self,
        source_name: str,
        session: Session,
        representation: Representation,
        wanted: ByteRange,
        body: Body,
        head: memoryview,
    ) -> None:
        self.length = body.length
        self.source_name = source_name
        self.session = session
        self.representation = representation
        self.wanted = wanted
        self._body = body
        self._head = head

    def readinto(self, buffer: memoryview) -> int:
        if not self._head:
            return self._body.readinto(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count

    def close(self) -> None:
        self._body.close()
