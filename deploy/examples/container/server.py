"""An HTTP server that embeds tokens, for Cloud Run, Knative and whatever probes a container.

It listens at once and loads meanwhile: GET /live is 200 while it runs, GET /ready once the model is there.
"""

from __future__ import annotations

import os

import hotstart

# Bytes begin to arrive here, and go on arriving while what stands below is imported.
loading = hotstart.prefetch(os.environ["MODEL"], framework="numpy")

import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402
from typing import Any  # noqa: E402

import numpy  # noqa: E402 - meanwhile the model arrives


class Server(ThreadingHTTPServer):
    """Holds the model, once there is one.

    Attributes:
        weights: tensors by name; None until they are all there.
        failure: why there will be none; None so far.
    """

    daemon_threads = True
    weights: Any = None
    failure: str | None = None

    def load(self) -> None:
        """Wait for the model; where none comes, end, so that the platform starts another."""
        try:
            self.weights = loading.result()
        except hotstart.HotstartError as error:
            self.failure = str(error)
            self.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path == "/live":
            self._answer(200, {})
        elif self.path == "/ready":
            weights = self.server.weights
            self._answer(503, {}) if weights is None else self._answer(200, {"version": weights.version})
        else:
            self._answer(404, {"error": "GET /live, GET /ready or POST /embed"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        weights = self.server.weights
        if self.path != "/embed":
            self._answer(404, {"error": "POST /embed"})
        elif weights is None:
            self._answer(503, {"error": "the model is not loaded yet"})
        else:
            try:
                tokens = numpy.asarray(json.loads(body)["tokens"], dtype=numpy.int64)
                rows = weights["embeddings.word_embeddings.weight"][tokens]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self._answer(400, {"error": f'expected {{"tokens": [number, ...]}}: {error}'})
                return
            self._answer(200, {"version": weights.version, "embedding": rows.mean(axis=0).tolist()})

    def _answer(self, status: int, fields: dict[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Leave probes and requests to the platform's own log."""


def main() -> int:
    """Serve until SIGTERM; the exit status is 1 if the model cannot be loaded."""
    server = Server(("", int(os.environ.get("PORT", "8080"))), Handler)
    signal.signal(signal.SIGTERM, lambda number, frame: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=server.load, daemon=True).start()
    with server:
        server.serve_forever()
    failure = server.failure
    loading.cancel()
    if failure is not None:
        print(failure, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
