"""The native API, read from a running proxy."""

from __future__ import annotations

import hashlib
import json
import socket
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import quote

import pytest

from hotstart.wire.digests import repr_digest
from hotstart.wire.manifest import Manifest
from hotstart.wire.opening import Opening
from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import Ended, ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Proxy

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"
IMMUTABLE = "public, max-age=31536000, immutable"


def weights(published: Published) -> bytes:
    return (published.folders["7"] / "model.safetensors").read_bytes()


def test_models(proxy: Proxy) -> None:
    """The list of models is short-lived JSON with an ETag of its own."""
    answer = ask(proxy.port, "/v1/models")
    assert answer.status == 200
    assert answer.json() == {"models": ["org/bert"]}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=10"
    assert ask(proxy.port, "/v1/models", {"If-None-Match": answer.headers["etag"]}).status == 304


def test_model(proxy: Proxy, published: Published) -> None:
    """A model tells its versions oldest first, its aliases, what is kept, and what is cached by version."""
    assert ask(proxy.port, "/v1/models/org/bert@7/config.json").status == 200
    description = ask(proxy.port, "/v1/models/org/bert").json()
    assert [entry["version"] for entry in description["versions"]] == ["6", "7"]
    assert description["aliases"] == {"prod": "7"}
    assert (description["default"], description["latest"]) == ("7", "7")
    assert description["kept"] == ["6", "7"]
    size = (published.folders["7"] / "config.json").stat().st_size
    assert description["cached"]["7"]["config.json"] == size


def test_manifest_is_the_origins_exact_bytes(proxy: Proxy, published: Published) -> None:
    """A pinned manifest is the published object, cacheable for ever, with its digest."""
    answer = ask(proxy.port, "/v1/models/org/bert@7")
    data = published.manifest("7")
    assert answer.body == data
    digest = hashlib.sha256(data).hexdigest()
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["repr-digest"] == repr_digest(digest)
    assert answer.headers["cache-control"] == IMMUTABLE
    assert answer.headers["content-type"] == "application/json"
    assert "content-location" not in answer.headers
    part = ask(proxy.port, "/v1/models/org/bert@7", {"Range": "bytes=1-9"})
    assert (part.status, part.body) == (206, data[1:10])


def test_open(proxy: Proxy, published: Published) -> None:
    """An opening holds version and manifest, is never stored, and a directory signs nothing."""
    for selector in ("", "@prod", "@7", "@latest", "@main"):
        answer = ask(proxy.port, f"/v1/open/org/bert{selector}")
        assert answer.headers["cache-control"] == "no-store"
        opening = Opening.parse(answer.body)
        assert opening.manifest.version == "7"
        assert opening.manifest_bytes == published.manifest("7")
        assert opening.fallback is None


@pytest.mark.parametrize("value", ["59", "604801", "1h", "-1", "", "999999999999999999999", "60.5"])
def test_open_refuses_lives_out_of_bounds(proxy: Proxy, value: str) -> None:
    """The life of URLs is asked for in whole seconds, from a minute to seven days."""
    ask(proxy.port, f"/v1/open/org/bert?expires_in={value}").problem(400, "invalid-query")
    assert ask(proxy.port, "/v1/open/org/bert?expires_in=60").status == 200


def test_file(proxy: Proxy, published: Published) -> None:
    """A file of a pinned version has all headers that a cache and a verifier need."""
    answer = ask(proxy.port, WEIGHTS)
    data = weights(published)
    digest = hashlib.sha256(data).hexdigest()
    assert answer.body == data
    manifest = Manifest.parse(published.manifest("7"))
    assert answer.headers == {
        "etag": f'"{digest}"',
        "cache-control": IMMUTABLE,
        "last-modified": formatdate(manifest.published_at // 1000, usegmt=True),
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
        "repr-digest": repr_digest(digest),
        "content-length": str(len(data)),
        "x-content-type-options": "nosniff",
        **{name: answer.headers[name] for name in ("cache-status", "server-timing", "server", "date")},
    }
    assert answer.headers["server"].startswith("hotstart/")
    assert "read;dur=" in answer.headers["server-timing"]


def test_cache_status(proxy: Proxy) -> None:
    """The first reader of a file is told of a miss that is stored, the next of a hit."""
    target = "/v1/models/org/bert@7/1_Pooling/config.json"
    assert ask(proxy.port, target).headers["cache-status"] == "hotstart; fwd=miss; stored"
    wait_until("the fill to end", lambda: proxy.metric("hotstart_fills_in_progress") == 0)
    assert ask(proxy.port, target).headers["cache-status"] == "hotstart; hit"


def test_twin(proxy: Proxy, published: Published) -> None:
    """A twin has its own URL, ETag and media type; no Accept-Encoding ever changes what a URL gives."""
    twin = ask(proxy.port, WEIGHTS + ".zst")
    manifest = Manifest.parse(published.manifest("7"))
    representation = manifest.representation("model.safetensors.zst")
    assert representation is not None
    assert twin.headers["content-type"] == "application/zstd"
    assert twin.headers["etag"] == f'"{representation.id}"'
    assert hashlib.sha256(twin.body).hexdigest() == representation.sha256
    assert "content-encoding" not in twin.headers
    plain = ask(proxy.port, WEIGHTS, {"Accept-Encoding": "zstd, gzip"})
    assert "content-encoding" not in plain.headers
    assert plain.body == weights(published)


def test_alias(proxy: Proxy) -> None:
    """What an alias means now is short-lived, and Content-Location names the version."""
    answer = ask(proxy.port, "/v1/models/org/bert@prod/config.json")
    assert answer.headers["cache-control"] == "public, max-age=10"
    assert answer.headers["content-location"] == "/v1/models/org/bert@7/config.json"
    manifest = ask(proxy.port, "/v1/models/org/bert@prod")
    assert manifest.headers["content-location"] == "/v1/models/org/bert@7"


def test_names_that_need_escapes(proxy: Proxy) -> None:
    """A file's name arrives through its UTF-8 escapes, and Content-Location escapes it again."""
    name = quote("größe & co.txt", safe="&")
    answer = ask(proxy.port, f"/v1/models/org/bert@prod/{name}")
    assert answer.body == b"escaped"
    assert answer.headers["content-location"] == f"/v1/models/org/bert@7/{name}"
    assert ask(proxy.port, answer.headers["content-location"]).body == b"escaped"


def test_head(proxy: Proxy, published: Published) -> None:
    """HEAD tells what GET would, ignores Range, and fetches nothing."""
    before = proxy.metric("hotstart_origin_bytes_total")
    target = "/v1/models/org/bert@6/model.safetensors"
    size = (published.folders["6"] / "model.safetensors").stat().st_size
    for headers in ({}, {"Range": "bytes=0-0"}, {"Range": f"bytes={size}-"}):
        answer = ask(proxy.port, target, headers, "HEAD")
        assert answer.status == 200
        assert answer.headers["content-length"] == str(size)
        assert "content-range" not in answer.headers
    assert proxy.metric("hotstart_origin_bytes_total") == before
    for other in (
        "/",
        "/healthz/live",
        "/metrics",
        "/v1/models",
        "/v1/models/org/bert",
        "/v1/open/org/bert@7",
    ):
        assert ask(proxy.port, other, method="HEAD").status == 200


def test_head_of_what_is_not_there_keeps_the_connection_in_step(proxy: Proxy) -> None:
    """An error to HEAD has no body, so the next answer on the connection is read right."""
    with connected(proxy.port) as wire:
        wire.request("HEAD", "/v1/models/org/bert@9")
        assert wire.answer("HEAD").status == 404
        wire.request("GET", "/healthz/live")
        assert wire.answer().json() == {"status": "live"}


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-8191", 0, 8192),
        ("bytes=4194300-4194310", 4194300, 4194311),
        ("bytes=-7", -7, None),
        ("bytes=1000-", 1000, None),
        ("bytes=5-99999999999", 5, None),
    ],
)
def test_ranges(proxy: Proxy, published: Published, value: str, start: int, stop: int | None) -> None:
    """A range gets exactly its bytes, across pieces too, and the whole one's ETag and digest."""
    data = weights(published)
    answer = ask(proxy.port, WEIGHTS, {"Range": value})
    assert answer.status == 206
    assert answer.body == data[start:stop]
    first = start if start >= 0 else len(data) + start
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.body) - 1}/{len(data)}"
    assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'


@pytest.mark.parametrize("value", ["bytes=0-1,4-5", "lines=0-1", "bytes=9-1", "bytes=x"])
def test_ranges_that_are_ignored(proxy: Proxy, value: str) -> None:
    """Several ranges, unknown units and malformed ones get the whole."""
    answer = ask(proxy.port, "/v1/models/org/bert@7/config.json", {"Range": value})
    assert answer.status == 200
    assert "content-range" not in answer.headers


def test_two_range_headers_are_ignored(proxy: Proxy) -> None:
    """Range twice is several ranges."""
    with connected(proxy.port) as wire:
        wire.send(
            "GET /v1/models/org/bert@7/config.json HTTP/1.1\r\nHost: x\r\n"
            "Range: bytes=0-0\r\nRange: bytes=2-3\r\n\r\n"
        )
        assert wire.answer().status == 200


def test_range_outside(proxy: Proxy, published: Published) -> None:
    """416 names the size, as a problem document."""
    size = len(weights(published))
    for value in (f"bytes={size}-", "bytes=-0"):
        answer = ask(proxy.port, WEIGHTS, {"Range": value})
        answer.problem(416, "range-not-satisfiable")
        assert answer.headers["content-range"] == f"bytes */{size}"


def test_empty_file(proxy: Proxy) -> None:
    """A file of no bytes is served, and no range of it."""
    target = "/v1/models/org/bert@7/empty.txt"
    answer = ask(proxy.port, target)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert ask(proxy.port, target, {"Range": "bytes=0-"}).headers["content-range"] == "bytes */0"


def test_conditions(proxy: Proxy) -> None:
    """Validators decide as RFC 9110 says, and 304 carries no length or type."""
    first = ask(proxy.port, WEIGHTS, {"Range": "bytes=0-0"})
    tag, modified = first.headers["etag"], first.headers["last-modified"]
    later = formatdate(parsedate_to_datetime(modified).timestamp() + 60, usegmt=True)
    earlier = formatdate(parsedate_to_datetime(modified).timestamp() - 60, usegmt=True)
    small = {"Range": "bytes=0-0"}

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(proxy.port, WEIGHTS, {**small, **named}).status

    assert status(If_None_Match=tag) == 304
    assert status(If_None_Match=f"W/{tag}") == 304
    assert status(If_None_Match='"x"') == 206
    assert status(If_Match=tag) == 206
    assert status(If_Match=f"W/{tag}") == 412
    assert status(If_Modified_Since=modified) == 304
    assert status(If_Modified_Since=later) == 304
    assert status(If_Modified_Since=earlier) == 206
    assert status(If_Unmodified_Since=earlier) == 412
    assert status(If_Range=tag) == 206
    assert status(If_Range=modified) == 206
    for stale in (f"W/{tag}", '"x"', later):
        assert status(If_Range=stale) == 200
    unmodified = ask(proxy.port, WEIGHTS, {"If-None-Match": tag})
    assert not {"content-length", "content-type", "transfer-encoding"} & set(unmodified.headers)
    assert unmodified.headers["etag"] == tag
    head = ask(proxy.port, WEIGHTS, {"If-None-Match": tag}, "HEAD")
    assert head.status == 304


def test_precondition_failed_is_a_problem_document(proxy: Proxy) -> None:
    """412 says what is there instead."""
    answer = ask(proxy.port, WEIGHTS, {"If-Match": '"x"'})
    answer.problem(412, "precondition-failed")
    assert answer.headers["etag"].startswith('"')


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v1/models/org/none", 404, "not-found"),
        ("/v1/models/org/bert@9", 404, "not-found"),
        ("/v1/models/org/bert@7/none.bin", 404, "not-found"),
        ("/v1/models/org/bert@7/config.json.zst", 404, "not-found"),
        ("/v1/models/org/bert@7/config.json.zsp", 404, "not-found"),
        ("/v1/models/org/bert@7/.hotstart/manifest.json", 400, "invalid-reference"),
        ("/v1/models/org/bert@7/../../x", 400, "invalid-reference"),
        ("/v1/models/org/bert@7/a%2Fb", 400, "invalid-reference"),
        ("/v1/models/org/bert@7/%00", 400, "invalid-reference"),
        ("/v1/models/..%2f..%2fetc/passwd", 400, "invalid-reference"),
        ("/hubs/models", 404, "no-such-route"),
        ("/v2/models", 404, "no-such-route"),
        ("/v1/gc", 404, "no-such-route"),
    ],
)
def test_problems(proxy: Proxy, target: str, status: int, code: str) -> None:
    """Every refusal is a problem document that is never stored."""
    answer = ask(proxy.port, target)
    answer.problem(status, code)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_not_found_says_what_there_is(proxy: Proxy) -> None:
    """A version that is not there comes with the ones that are."""
    problem = ask(proxy.port, "/v1/models/org/bert@9").problem(404, "not-found")
    assert problem["what"] == "version"
    assert problem["known"] == ["@prod", "@7", "@6"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_methods(proxy: Proxy, method: str) -> None:
    """Other methods are told which there are."""
    answer = ask(proxy.port, WEIGHTS, method=method)
    answer.problem(405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD"


def test_at_sign(proxy: Proxy) -> None:
    """%40 is redirected to the literal spelling, prefix and query kept."""
    answer = ask(proxy.port, "/v1/open/org/bert%40prod?expires_in=60")
    answer.problem(308, "not-canonical")
    assert answer.headers["location"] == "/v1/open/org/bert@prod?expires_in=60"
    assert ask(proxy.port, answer.headers["location"]).status == 200


def test_home_and_probes(proxy: Proxy) -> None:
    """The page lists the routes; the probes answer JSON that is never stored."""
    home = ask(proxy.port, "/")
    assert home.headers["content-type"] == "text/plain; charset=utf-8"
    assert b"/v1/models/{model}@{version}/{file}" in home.body
    assert b"/v1/gc" not in home.body
    ready = ask(proxy.port, "/healthz/ready")
    assert ready.json() == {"status": "ready", "degraded": []}
    assert ready.headers["cache-control"] == "no-store"


def test_absolute_form(proxy: Proxy) -> None:
    """A target with scheme and authority is the same resource (RFC 9112, 3.2.2)."""
    assert ask(proxy.port, f"http://127.0.0.1:{proxy.port}/healthz/live").status == 200


def test_keep_alive_and_pipelining(proxy: Proxy, published: Published) -> None:
    """Requests sent at once are answered in order on one connection, files by sendfile among them."""
    targets = [WEIGHTS, "/healthz/live", "/v1/models/org/bert@7/config.json", WEIGHTS, "/v1/models"]
    for place in (proxy.port, proxy.unix):
        with connected(place) as wire:
            wire.send("".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n" for target in targets))
            answers = [wire.answer() for _ in targets]
            assert answers[0].body == answers[3].body == weights(published)
            assert answers[1].json() == {"status": "live"}
            assert answers[4].json() == {"models": ["org/bert"]}
            wire.request("GET", "/healthz/live", {"Connection": "close"})
            assert wire.answer().headers["connection"] == "close"
            assert wire.until_end() == b""


def test_half_close(proxy: Proxy, published: Published) -> None:
    """A client that ends its side after its requests gets all answers, and then the end."""
    for place in (proxy.port, proxy.unix):
        with connected(place) as wire:
            wire.request("GET", WEIGHTS)
            wire.request("GET", "/v1/models/org/bert@7/big.bin")
            wire.request("GET", "/healthz/live")
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.answer().body == weights(published)
            assert len(wire.answer().body) == BIG_BYTES
            assert wire.answer().status == 200
            assert wire.until_end() == b""


def test_half_close_without_a_request(proxy: Proxy) -> None:
    """A client that ends its side with nothing asked is let go at once."""
    with connected(proxy.port) as wire:
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.until_end() == b""


def test_http_1_0(proxy: Proxy, published: Published) -> None:
    """An old client gets its bytes and the end of the connection."""
    with connected(proxy.port) as wire:
        wire.send(f"GET {WEIGHTS} HTTP/1.0\r\n\r\n")
        _, headers = wire.head()
        assert wire.exactly(int(headers["content-length"])) == weights(published)
        assert wire.until_end() == b""


def test_unix_socket_mode(proxy: Proxy) -> None:
    """A data socket is open to the owner and the group by default, the admin socket to the owner alone."""
    assert proxy.unix.stat().st_mode & 0o777 == 0o660
    assert (proxy.store / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_json_is_json(proxy: Proxy) -> None:
    """Every JSON answer parses, with its media type."""
    for target in ("/v1/models", "/v1/models/org/bert", "/v1/models/org/bert@7", "/v1/open/org/bert@7"):
        answer = ask(proxy.port, target)
        assert answer.headers["content-type"] == "application/json"
        json.loads(answer.body)


def test_a_short_body_is_noticed_by_the_test_client(proxy: Proxy) -> None:
    """The client of these tests tells a body that ends early, so the tests of cut answers mean something."""
    with connected(proxy.port) as wire:
        wire.request("GET", "/healthz/live", {"Connection": "close"})
        wire.head()
        with pytest.raises(Ended):
            wire.exactly(1000)
