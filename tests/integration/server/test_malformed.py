"""Malformed HTTP, byte for byte: 400, and the connection ends; nothing after it is taken for a request."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.integration.server.wire import Ended, ask, connected
from tests.support.processes import Proxy

HEAD = "GET /healthz/live HTTP/1.1\r\n"
# What would be answered 200 if a malformed head were taken for something else.
SMUGGLED = "GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            HEAD + "Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="CL+TE"
        ),
        pytest.param(
            HEAD + "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", id="TE+CL"
        ),
        pytest.param(HEAD + "Host: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two CL"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: 1, 2\r\n\r\nab", id="CL list"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: +5\r\n\r\nabcde", id="CL +5"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: 5_0\r\n\r\nabcde", id="CL 5_0"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: 0x5\r\n\r\nabcde", id="CL 0x5"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: -1\r\n\r\n", id="CL -1"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: \r\n\r\n", id="CL empty"),
        pytest.param(HEAD + "Host: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", id="CL huge"),
        pytest.param(HEAD + "Host: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="TE xchunked"),
        pytest.param(
            HEAD + "Host: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="TE not last"
        ),
        pytest.param(HEAD + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", id="bad chunk size"),
        pytest.param(
            "GET /healthz/live HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="1.0 TE",
        ),
        pytest.param(HEAD + "Host: x\r\nA: b\nC: d\r\n\r\n", id="bare LF"),
        pytest.param("GET /healthz/live HTTP/1.1\nHost: x\n\n", id="LF only"),
        pytest.param(HEAD + "Host: x\r\nA: b\rC: d\r\n\r\n", id="bare CR"),
        pytest.param(HEAD + "Host: x\r\nA: b\0c\r\n\r\n", id="NUL in value"),
        pytest.param(HEAD + "Host: x\r\nA\0b: c\r\n\r\n", id="NUL in name"),
        pytest.param(HEAD + "Host: x\r\nA: b\r\n c\r\n\r\n", id="obs-fold"),
        pytest.param(HEAD + "Host: x\r\nA : b\r\n\r\n", id="space before colon"),
        pytest.param(HEAD + "Host: x\r\n: b\r\n\r\n", id="no name"),
        pytest.param(HEAD + "Host: x\r\nnonsense\r\n\r\n", id="no colon"),
        pytest.param(HEAD + " Host: x\r\n\r\n", id="space before first header"),
        pytest.param(HEAD + "\r\n", id="no Host"),
        pytest.param(HEAD + "Host: x\r\nHost: y\r\n\r\n", id="two Hosts"),
        pytest.param("GET /healthz/live HTTP/2.0\r\nHost: x\r\n\r\n", id="HTTP/2.0"),
        pytest.param("GET /healthz/live HTTP/1.x\r\nHost: x\r\n\r\n", id="HTTP/1.x"),
        pytest.param("GET /healthz/live\r\n\r\n", id="HTTP/0.9"),
        pytest.param("GET /healthz/live x HTTP/1.1\r\nHost: x\r\n\r\n", id="space in target"),
        pytest.param("G@T /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n", id="method"),
        pytest.param("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param("GET /" + "a" * 20_000 + " HTTP/1.1\r\nHost: x\r\n\r\n", id="long target"),
        pytest.param(HEAD + "Host: x\r\nA: " + "a" * 10_000 + "\r\n\r\n", id="long value"),
        pytest.param(HEAD + "Host: x\r\n" + "A: b\r\n" * 200 + "\r\n", id="many headers"),
    ],
)
def test_malformed(proxy: Proxy, text: str) -> None:
    """One 400 as a problem document, and then the end, whatever follows on the connection."""
    with connected(proxy.port) as wire:
        wire.send(text + SMUGGLED)
        answer = wire.answer()
        assert answer.status == 400, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "malformed-request"
        assert answer.headers["connection"] == "close"
        assert b"HTTP/1.1 200" not in wire.until_end()


def test_a_body_that_nobody_reads_ends_the_connection(proxy: Proxy) -> None:
    """A GET with a body is answered, and its body is not taken for the next request."""
    with connected(proxy.port) as wire:
        wire.send(f"{HEAD}Host: x\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}")
        assert wire.answer().status == 200
        wire.request("GET", "/v1/models")
        # Ending the connection is as good as reading the body away.
        with suppress(Ended):
            assert wire.answer().json() == {"models": ["org/bert"]}


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n",
        "Expect: 100-continue\r\n",
    ],
    ids=["upgrade", "expect"],
)
def test_what_is_offered_and_not_wanted(proxy: Proxy, headers: str) -> None:
    """An offer to speak otherwise is passed over, and the connection goes on."""
    with connected(proxy.port) as wire:
        for _ in range(2):
            wire.send(f"{HEAD}Host: x\r\n{headers}\r\n")
            assert wire.answer().json() == {"status": "live"}


def test_connect(proxy: Proxy) -> None:
    """This is no proxy of that kind."""
    with connected(proxy.port) as wire:
        wire.send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert wire.answer().status == 404


def test_the_proxy_goes_on(proxy: Proxy) -> None:
    """After all that, and after connections that said nothing or half a request, it serves."""
    with connected(proxy.port), connected(proxy.port) as half:
        half.send("GET /healthz/li")
        assert ask(proxy.port, "/healthz/live").status == 200
