"""Running a command's work so that Ctrl-C and SIGTERM end it in order, and say how to go on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["EXIT_INTERRUPTED", "EXIT_TERMINATED", "run_interruptibly"]

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


def run_interruptibly(work: Callable[[], Coroutine[Any, Any, int]], how_to_go_on: str) -> int:
    """Run work in an event loop and return its exit status.

    A signal cancels work, which removes its temporary files; then how_to_go_on is printed on stderr.

    Returns:
        What work returned; 130 after SIGINT and 143 after SIGTERM.
    """
    terminated = False

    async def guarded() -> int:
        nonlocal terminated
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        # asyncio itself cancels on SIGINT; a job that a scheduler ends deserves the same.
        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await work()
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(guarded())
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except asyncio.CancelledError:
        if not terminated:
            raise
        status = EXIT_TERMINATED
    print(f"hotstart: interrupted. {how_to_go_on}", file=sys.stderr)
    return status
