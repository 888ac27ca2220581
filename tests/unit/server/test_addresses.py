"""Addresses to listen on, as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart_proxy.server.addresses import Address, InvalidAddress, TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:8470", TcpAddress("127.0.0.1", 8470), "http://127.0.0.1:8470"),
        ("0.0.0.0:0", TcpAddress("0.0.0.0", 0), "http://0.0.0.0:0"),
        ("[::1]:8470", TcpAddress("::1", 8470), "http://[::1]:8470"),
        ("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1), "http://[fe80::1%eth0]:1"),
        ("node-7.cluster.local:65535", TcpAddress("node-7.cluster.local", 65535), None),
        ("unix:/run/hotstart.sock", UnixAddress(Path("/run/hotstart.sock")), "unix:/run/hotstart.sock"),
    ],
)
def test_addresses(text: str, address: Address, url: str | None) -> None:
    """Every form is understood, and written the same again."""
    assert parse_address(text) == address
    assert str(address) == text
    assert url is None or address.url() == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected HOST:PORT"),
        ("8470", "expected HOST:PORT"),
        (":8470", "expected HOST:PORT"),
        ("::1:8470", "expected HOST:PORT"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:port", "expected HOST:PORT"),
        ("127.0.0.1:-1", "expected HOST:PORT"),
        ("http://127.0.0.1:8470", "expected HOST:PORT"),
        ("127.0.0.1:65536", "above 65535"),
        ("unix:relative.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/" + "a" * 107, "at most 107 bytes"),
    ],
)
def test_no_address(text: str, reason: str) -> None:
    """What is no address is refused, and the message says what one looks like."""
    with pytest.raises(InvalidAddress, match=reason):
        parse_address(text)
