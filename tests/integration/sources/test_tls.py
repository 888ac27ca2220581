"""The proxy and origins over TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.sources.base import SourceError
from hotstart.sources.endpoints import parse_proxy_url
from hotstart.sources.http import Connection, tls_context
from hotstart.sources.proxy import ProxyClient, ProxySource
from tests.integration.sources.scripted import ScriptedServer
from tests.integration.sources.versions import EXPECTED, FILE, MANIFEST, WANTED, ranged, read_all
from tests.support.deadlines import DEADLINE_SECONDS, wait_until

# Of localhost and 127.0.0.1, signed by itself, good for nothing but these tests.
FOLDER = Path(__file__).with_name("tls")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "server.pem")
    with ScriptedServer(ranged, tls=context) as running:
        yield running


def test_a_certificate_that_nobody_vouches_for_is_refused(server: ScriptedServer) -> None:
    """Without trust there is no answer, and the error says what is wrong."""
    connection = Connection(parse_proxy_url(server.url), "proxy")
    with pytest.raises(SourceError, match="certificate is not trusted: self-signed") as caught:
        connection.request("GET", "/", {}, doing="reading")
    assert not caught.value.transient
    connection.close()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the test's certificate one that this system trusts, as SSL_CERT_FILE does for a process."""
    tls_context.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(FOLDER / "certificate.pem"))
    yield
    tls_context.cache_clear()


@pytest.mark.usefixtures("trusted")
def test_ranges_arrive_and_a_waiting_read_is_woken(server: ScriptedServer) -> None:
    """Over TLS as without: right bytes over one connection, and close() from another thread ends a wait."""
    session = ProxySource(ProxyClient(parse_proxy_url(server.url), None), MANIFEST).session()
    for _ in range(2):
        assert read_all(session.fetch(FILE, FILE.identity(), WANTED)) == EXPECTED
    assert server.connections == 1
    server.answer = lambda request: replace(ranged(request), hang_after=1000)
    body = session.fetch(FILE, FILE.identity(), WANTED)
    received = bytearray()
    failures: list[SourceError] = []

    def read() -> None:
        buffer = memoryview(bytearray(len(WANTED)))
        try:
            while True:
                received.extend(buffer[: body.readinto(buffer)])
        except SourceError as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until("the first bytes", lambda: len(received) == 1000)
    session.close()
    reader.join(DEADLINE_SECONDS)
    assert "from our side" in failures[0].reason
    assert bytes(received) == EXPECTED[:1000]
    body.close()
