"""URLs of Redis stores: taken apart, and shown without what is secret in them."""

from __future__ import annotations

import pytest

from hotstart_proxy.stores.redis_urls import InvalidRedisUrl, masked, parse_redis_url
from hotstart_proxy.stores.urls import InvalidStoreUrl, parse_store_url

SECRET = "s3cr3t"


def test_one_server() -> None:
    """Host, port and database of one server, and what they are by default."""
    place = parse_redis_url("redis://cache.local")
    assert (place.nodes, place.database, place.cluster) == ((("cache.local", 6379),), 0, False)
    place = parse_redis_url("redis://[::1]:7000/3")
    assert (place.nodes, place.database) == ((("::1", 7000),), 3)


def test_a_cluster() -> None:
    """A cluster is named by some of its nodes."""
    place = parse_redis_url("redis+cluster://a:7000,b:7001")
    assert (place.nodes, place.cluster) == ((("a", 7000), ("b", 7001)), True)


def test_a_unix_socket() -> None:
    """A Unix socket is named by its path, the database in the query."""
    place = parse_redis_url("unix://u:p%40@/run/redis.sock?db=2")
    assert (place.unix, place.database, place.username, place.password) == ("/run/redis.sock", 2, "u", "p@")


def test_tls() -> None:
    """TLS verifies by default, with the authorities that are named."""
    place = parse_redis_url("rediss://h?ssl_ca_certs=/ca.pem")
    assert place.tls == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }
    loose = parse_redis_url("rediss+cluster://h?ssl_cert_reqs=none")
    assert loose.tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert parse_redis_url("redis://h").tls is None


@pytest.mark.parametrize(
    "url", [f"redis://user:{SECRET}@h/0", f"redis://:{SECRET}@h", f"unix://:{SECRET}@@/s"]
)
def test_secrets_are_not_shown(url: str) -> None:
    """A password appears in no form of showing a URL or a place, and is there for whoever connects."""
    store = parse_store_url(url)
    place = parse_redis_url(store)
    assert place.password is not None
    assert SECRET in place.password
    for shown in (str(store), repr(store), f"{store}", f"{store:>60}", repr(place), place.url, masked(url)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "url", [f"redis://u:{SECRET}@h:x", f"redis://h?password={SECRET}", f"http://:{SECRET}@h"]
)
def test_secrets_are_not_in_errors(url: str) -> None:
    """An error about a URL does not repeat its password."""
    with pytest.raises(InvalidStoreUrl) as raised:
        parse_store_url(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h", "expected redis://"),
        ("redis:h", "expected redis://"),
        ("redis://", "no HOST:PORT"),
        ("redis://h:0", "no port"),
        ("redis://h:x", "no HOST:PORT"),
        ("redis://h/first", "no database's number"),
        ("redis://a,b", "redis\\+cluster://"),
        ("redis+cluster://a/1", "database 0 alone"),
        ("redis://user@h", "USER:PASSWORD"),
        ("redis://h?ssl_ca_certs=/x", "for rediss"),
        ("redis://h?timeout=3", "no option 'timeout'"),
        ("redis://h?db=1&db=2", "given twice"),
        ("rediss://h?ssl_cert_reqs=maybe", "required or none"),
        ("unix://relative", "ABSOLUTE"),
    ],
)
def test_urls_that_name_no_redis(url: str, reason: str) -> None:
    """What is no Redis's URL is refused with what was expected."""
    with pytest.raises(InvalidRedisUrl, match=reason):
        parse_redis_url(url)
