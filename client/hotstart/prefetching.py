"""Prefetching: a load that runs in threads while the program does something else: ``import torch``.

Whoever calls it waits for what is imported here, and for nothing else. So this is written with the bare
``_thread``: ``threading`` imports ten modules, and its ``start`` waits until the new thread runs, which has
all of the load's imports before it and lets go of the interpreter every 5 ms only.
"""

from __future__ import annotations

import _thread
import os

# As in hotstart itself.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Prefetch"]


class Prefetch:
    """A load that was begun. Made by ``hotstart.prefetch``.

    Bytes arrive in the background; the framework is imported, and tensors are made, in ``result``.
    """

    def __init__(self, reference: str, options: dict[str, Any], sources: dict[str, Any]) -> None:
        """Begin; returns before anything was imported or connected.

        Args:
            reference: what to load.
            options: of ``Model.load``.
            sources: of ``hotstart.open``.
        """
        self._reference = reference
        self._options = options
        self._sources = sources
        self._pid = os.getpid()
        self._lock = _thread.allocate_lock()
        self._is_ended = False
        # Held by the load; who waits for its end waits for this.
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self._is_cancelled = False
        # Of hotstart.loading, which is imported in the thread.
        self._loading: Any = None
        self._ready: Any = None
        self._result: Any = None
        self._error: BaseException | None = None
        _thread.start_new_thread(self._run, ())

    def __repr__(self) -> str:
        return f"<Prefetch {self._reference}, {'ended' if self._is_ended else 'running'}>"

    def done(self) -> bool:
        """Tell whether ``result`` would not have to wait."""
        return self._is_ended

    def cancel(self) -> None:
        """Stop; ``result`` raises then. Nothing happens where it has ended."""
        with self._lock:
            self._is_cancelled = True
            loading = self._loading
        if loading is not None:
            loading.abort()

    def result(self, timeout: float | None = None) -> Any:
        """Return what ``hotstart.load`` would have returned; the same each time.

        Interrupted, it stops the load.

        Args:
            timeout: seconds to wait; None waits for the end.

        Raises:
            ForkedProcess: it was begun before this process was forked.
            PrefetchTimeout: not done in time (a ``TimeoutError`` too).
            HotstartError: what ``hotstart.load`` would have raised.
        """
        if os.getpid() != self._pid:
            from hotstart.errors import ForkedProcess

            raise ForkedProcess(f"the prefetch of {self._reference}")
        try:
            in_time = self._wait(timeout)
        except BaseException:
            self.cancel()
            raise
        if not in_time:
            from hotstart.errors import PrefetchTimeout

            assert timeout is not None
            raise PrefetchTimeout(self._reference, timeout)
        if self._error is not None:
            raise self._error
        with self._lock:
            if self._result is None:
                self._result = self._loading.collect(self._ready)
                self._ready = None
            return self._result

    def _run(self) -> None:
        try:
            self._load()
        except BaseException as error:  # noqa: BLE001 - the end of a thread: whoever asks gets the error
            self._error = error
        finally:
            self._is_ended = True
            self._running.release()

    def _wait(self, timeout: float | None) -> bool:
        if timeout is not None and timeout <= 0:
            return self._is_ended
        is_over = self._running.acquire(timeout=-1 if timeout is None else timeout)
        if is_over:
            # For the next one that waits.
            self._running.release()
        return is_over

    def _load(self) -> None:
        from hotstart.loading import LoadOptions
        from hotstart.model import open_model

        options = LoadOptions(**self._options)
        loading = open_model(self._reference, **self._sources).begin(options)
        with self._lock:
            self._loading = loading
            is_cancelled = self._is_cancelled
        if is_cancelled:
            loading.abort()
        self._ready = list(loading)
