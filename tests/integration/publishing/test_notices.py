"""Proxies are told of a publish, and nothing that goes wrong there goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hotstart_proxy.origins.urls import InvalidOriginUrl
from hotstart_proxy.publishing.notices import Notice, check_admin_url, notify
from tests.support.processes import Processes, free_port

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
SHORT_SECONDS = 0.2


class Listener:
    """Answers every request with the same bytes, and keeps what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def listening(answer: bytes | None, path: Path | None = None) -> AsyncIterator[tuple[Listener, str]]:
    """Listen on a free port, or on a Unix socket; None never answers."""
    listener = Listener(answer)
    if path is not None:
        server = await asyncio.start_unix_server(listener.serve, path)
        url = f"unix:{path}"
    else:
        server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield listener, url


async def test_no_more_than_the_name_is_told(processes: Processes) -> None:
    """A notice is a POST of the model's name, over TCP and over a Unix socket, and has no body."""
    socket_path = processes._sockets / "admin.sock"
    async with listening(ACCEPTED) as (tcp, url), listening(ACCEPTED, socket_path) as (unix, unix_url):
        assert await notify([url, unix_url], "org/bert") == [Notice(url, None), Notice(unix_url, None)]
    for listener in (tcp, unix):
        (request,) = listener.requests
        assert request.startswith(b"POST /v1/models/org/bert:poll HTTP/1.1\r\n")
        assert b"content-length: 0" in request.lower()


async def test_failures_are_told_and_not_raised(tmp_path: Path) -> None:
    """Whoever is away, slow, or no admin listener at all keeps nobody else from being told."""
    away = f"http://127.0.0.1:{free_port()}"
    none = f"unix:{tmp_path}/none.sock"
    refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nwhat"
    redirect = b"HTTP/1.1 307 Temporary\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with (
        listening(None) as (_, silent),
        listening(refusal) as (_, other),
        listening(redirect) as (_, elsewhere),
        listening(b"no HTTP at all\r\n\r\n") as (_, gibberish),
        listening(ACCEPTED) as (_, good),
    ):
        urls = [away, none, silent, other, elsewhere, gibberish, good]
        notices = await notify(urls, "org/bert", SHORT_SECONDS)
    assert [notice.url for notice in notices] == urls
    failures = {notice.url: notice.failure for notice in notices}
    assert failures[good] is None
    assert failures[silent] == "no answer within 0.2 s"
    assert "status 404" in str(failures[other])
    assert "status 307" in str(failures[elsewhere])
    for url in (away, none, gibberish):
        assert failures[url]


@pytest.mark.parametrize(
    "text",
    ["", "host:8470", "ftp://host", "http://", "http://host/path", "http://me:pw@host", "unix:relative"],
)
def test_addresses_that_are_refused(text: str) -> None:
    """What cannot be an admin listener's address is refused before anything is published."""
    with pytest.raises(InvalidOriginUrl):
        check_admin_url(text)


async def test_publishing_does_not_fail_with_a_notice(
    processes: Processes, model_folder: Path, tmp_path: Path
) -> None:
    """A proxy that cannot be told is named on stderr; the version is there and the exit status is 0."""
    origin = f"file://{tmp_path}/origin"
    away = f"http://127.0.0.1:{free_port()}"
    publish = ("publish", str(model_folder), "org/bert@1", "--origin", origin)
    done = processes.run(*publish, "--notify", away, "--notify", away, "--json").check()
    assert done.stderr.count("was not notified, and will find out by polling") == 1
    assert f'"notified": {{"{away}": false}}' in done.stdout
    done = processes.run("alias", "org/bert", "prod=1", "--origin", origin, "--notify", away).check()
    assert away in done.stderr
    refused = processes.run(*publish, "--notify", "nowhere")
    assert refused.status == 2
    assert "--notify" in refused.stderr
