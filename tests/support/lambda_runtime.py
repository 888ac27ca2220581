"""The Runtime API that AWS Lambda offers to a function's process, as far as one function uses it.

AWS describes it in "Using the Lambda runtime API"; the client is AWS's own ``awslambdaric``.
"""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tests.support.deadlines import DEADLINE_SECONDS

__all__ = ["LambdaRuntime"]

_PREFIX = "/2018-06-01/runtime"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        assert self.path == f"{_PREFIX}/invocation/next"
        self.server.asked.set()
        item = self.server.events.get()
        if item is None:
            self.close_connection = True
            return
        identifier, event = item
        headers = {
            "Lambda-Runtime-Aws-Request-Id": identifier,
            "Lambda-Runtime-Deadline-Ms": "4102444800000",
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:000000000000:function:test",
            "Content-Type": "application/json",
        }
        self._answer(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.answers.put((self.path.removeprefix(f"{_PREFIX}/"), body))
        self._answer(202, b'{"status": "OK"}', {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.events: queue.Queue[tuple[str, object] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[str, Any]] = queue.Queue()


class LambdaRuntime:
    """One function's Runtime API; a context manager."""

    def __init__(self) -> None:
        self._server = _Server()
        self._count = 0
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> LambdaRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.events.put(None)
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """What AWS_LAMBDA_RUNTIME_API is set to."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def is_asked(self) -> bool:
        """The function has asked for its first event: its init phase is over."""
        return self._server.asked.is_set()

    def wait_until_asked(self) -> None:
        """Wait for the end of the init phase."""
        assert self._server.asked.wait(DEADLINE_SECONDS), "the function did not ask for an event"

    def invoke(self, event: object) -> Any:
        """Send an event, and return what the function answers."""
        self._count += 1
        self._server.events.put((f"request-{self._count}", event))
        path, body = self._server.answers.get(timeout=DEADLINE_SECONDS)
        assert path == f"invocation/request-{self._count}/response", (path, body)
        return body

    def init_error(self) -> Any:
        """Return what the function reports of an init phase that failed."""
        path, body = self._server.answers.get(timeout=DEADLINE_SECONDS)
        assert path == "init/error", (path, body)
        return body
