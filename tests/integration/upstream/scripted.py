"""A server that answers as it is told: what no proxy does on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from hotstart.wire import documents

__all__ = ["Asked", "Scripted", "ScriptedServer", "problem"]


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer.

    Attributes:
        cut_after: bytes of the body after which the connection is reset; None sends all of it.
        hang: nothing is sent at all.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    hang: bool = False


def problem(status: int, code: str, headers: Mapping[str, str] | None = None) -> Scripted:
    """Return a problem document as a proxy sends it."""
    body = documents.dump_json({"status": status, "code": code, "detail": f"it is {code}"})
    return Scripted(status, {"Content-Type": "application/problem+json", **(headers or {})}, body)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class ScriptedServer:
    """Gives its answers in order, whatever is asked, the last one again and again.

    Attributes:
        asked: all requests.
        url: where it listens.
    """

    def __init__(self, *answers: Scripted) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        fields = (line.split(": ", 1) for line in lines)
        self.asked.append(Asked(method, target, {name.lower(): value for name, value in fields}))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.hang:
            await reader.read()
            return False
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        lines = [
            f"HTTP/1.1 {answer.status} Scripted",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if method != "HEAD":
            writer.write(answer.body[: answer.cut_after])
        await writer.drain()
        if answer.cut_after is not None:
            writer.transport.abort()
            return False
        return True
