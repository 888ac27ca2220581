"""A TCP relay that a test can hold at a byte, so that "in the middle of a transfer" is no matter of luck."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from types import TracebackType
from typing import Final

from tests.support.deadlines import DEADLINE_SECONDS

__all__ = ["Direction", "Relay"]

_CHUNK_BYTES: Final = 64 * 1024
# SO_LINGER with time 0: close() sends RST at once.
_RESET = struct.pack("ii", 1, 0)


class Direction:
    """All bytes that go one way, over all connections."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: int | None = None
        self._held = False
        self._closed = False
        self._passed = 0

    @property
    def passed(self) -> int:
        """How many bytes went through since the start."""
        return self._passed

    def hold_after(self, count: int) -> None:
        """Let count more bytes through, then none until ``release``."""
        with self._changed:
            self._left = count
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Wait until bytes stand before the closed gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held, DEADLINE_SECONDS), (
                f"only {self._passed} bytes came, and none had to be held"
            )

    def release(self) -> None:
        """Let everything through again."""
        with self._changed:
            self._left = None
            self._held = False
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting; nothing more goes through."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def admit(self, count: int) -> int:
        """Return how many of count bytes may go now, at least 1; 0 once closed. Waits while held."""
        with self._changed:
            while self._left == 0 and not self._closed:
                self._held = True
                self._changed.notify_all()
                self._changed.wait()
            if self._closed:
                return 0
            if self._left is not None:
                count = min(count, self._left)
                self._left -= count
            self._passed += count
            return count


class Relay:
    """Passes every connection to its port on to another port of 127.0.0.1, or to several in turn.

    A context manager.

    Attributes:
        port: where it listens.
        requests: bytes towards the target.
        answers: bytes from the target.
        connections: how many were accepted.
        gets: how many GET requests went through.
    """

    def __init__(self, *targets: int) -> None:
        self._targets = itertools.cycle(targets)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.requests = Direction()
        self.answers = Direction()
        self.connections = 0
        self.gets = 0
        self._stall_after: int | None = None
        self._stalled = threading.Event()
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        self._closed.set()
        self.requests.close()
        self.answers.close()
        self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stall_one(self, after: int) -> None:
        """Let the first connection that has brought so many bytes of answers bring no more, for good."""
        with self._lock:
            self._stall_after = after

    def wait_until_stalled(self) -> None:
        """Wait until one connection brings no more."""
        assert self._stalled.wait(DEADLINE_SECONDS), f"no connection brought {self._stall_after} bytes"

    def _stalls_here(self, brought: int) -> bool:
        with self._lock:
            if self._stall_after is None or brought < self._stall_after:
                return False
            self._stall_after = None
            return True

    def cut(self) -> None:
        """Reset all connections that are open now."""
        with self._lock:
            for sock in self._sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                _shut(sock)
                sock.close()
            self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", next(self._targets)))
            except OSError:
                # As if nobody listened here either.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
                self.connections += 1
            for source, sink, direction in ((near, far, self.requests), (far, near, self.answers)):
                threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        brought = 0
        try:
            while data := source.recv(_CHUNK_BYTES):
                if direction is self.requests:
                    with self._lock:
                        self.gets += data.count(b"GET /")
                elif self._stalls_here(brought):
                    self._stalled.set()
                    self._closed.wait()
                    break
                brought += len(data)
                rest = memoryview(data)
                while rest and (count := direction.admit(len(rest))):
                    sink.sendall(rest[:count])
                    rest = rest[count:]
                if rest:
                    break
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side is gone; so is the other one's use of it.
            _shut(source)
            _shut(sink)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
