"""nginx and the safetensors library, in memory: four ranged connections into one buffer, then ``load``.

What a careful programmer writes without a library for loading: the standard library's HTTP client, and ranges
received straight into the buffer's parts in threads. ``safetensors.torch.load`` takes bytes alone, so the
buffer is copied once.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import safetensors.torch

from benchmarks.peers.measuring import serve

CONNECTIONS = 4


def size_of(url: str) -> int:
    """Return a file's size, as the server tells it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("HEAD", parts.path)
    answer = connection.getresponse()
    connection.close()
    return int(answer.headers["Content-Length"])


def receive(url: str, buffer: memoryview) -> None:
    """Receive a file that fills the buffer, over several connections."""
    share = -(-len(buffer) // CONNECTIONS)
    failed: list[BaseException] = []

    def work(start: int) -> None:
        try:
            _receive_range(url, buffer[start : start + share], start)
        except BaseException as error:  # noqa: BLE001 - a thread's end: whoever waits gets it
            failed.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, len(buffer), share)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _receive_range(url: str, part: memoryview, start: int) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", parts.path, headers={"Range": f"bytes={start}-{start + len(part) - 1}"})
    answer = connection.getresponse()
    if answer.status != http.client.PARTIAL_CONTENT:
        raise OSError(f"GET {url}: {answer.status}, expected 206")
    filled = 0
    while filled < len(part):
        count = answer.readinto(part[filled:])
        if not count:
            raise OSError(f"GET {url}: cut short after {filled} of {len(part)} bytes")
        filled += count
    connection.close()


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Receive and parse."""
    data = bytearray(size_of(request["url"]))
    receive(request["url"], memoryview(data))
    tensors: Mapping[str, Any] = safetensors.torch.load(bytes(data))
    return tensors


if __name__ == "__main__":
    serve(load, "safetensors", "torch")
