"""The administrative API, tokens, metrics and logs of running proxies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hotstart_proxy.telemetry.metrics import METRICS
from tests.integration.server.conftest import Published
from tests.integration.server.wire import Answer, ask
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"


def test_warm_evict_and_collect(processes: Processes, published: Published, store: Path) -> None:
    """Warming fills what --keep names, evicting frees it, and neither is on the data listeners."""
    proxy = processes.serve(published.url, store, "--keep", "identity", "--keep", "zst")
    admin = store / "admin.sock"
    warmed = ask(admin, "/v1/models/org/bert@prod:warm", method="POST").json()
    assert (warmed["model"], warmed["version"]) == ("org/bert", "7")
    assert {"model.safetensors", "model.safetensors.zst", "tokenizer.json"} <= set(warmed["cached"])
    assert ask(proxy.port, WEIGHTS).headers["cache-status"] == "hotstart; hit"
    evicted = ask(admin, "/v1/models/org/bert@7:evict", method="POST").json()
    assert evicted["freed_bytes"] >= warmed["cached"]["model.safetensors"]
    assert ask(proxy.port, WEIGHTS).headers["cache-status"] == "hotstart; fwd=miss; stored"
    assert ask(admin, "/v1/gc", method="POST").json() == {"freed_bytes": 0}
    for place in (proxy.port, proxy.unix):
        ask(place, "/v1/gc", method="POST").problem(404, "no-such-route")
        ask(place, "/v1/models/org/bert@7:warm", method="POST").problem(400, "invalid-reference")


def test_admin_answers_errors_as_problem_documents(proxy: Proxy) -> None:
    """Wrong methods and names are told as on the data listeners."""
    admin = proxy.store / "admin.sock"
    wrong = ask(admin, "/v1/gc")
    wrong.problem(405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    ask(admin, "/v1/models/org/bert@9:warm", method="POST").problem(404, "not-found")
    ask(admin, "/v1/models/org/bert@9:pin", method="POST").problem(404, "not-found")
    ask(admin, "/v1/models/org/bert@7:keep", method="POST").problem(404, "no-such-route")
    ask(admin, WEIGHTS).problem(404, "no-such-route")


def test_pin_and_unpin(processes: Processes, published: Published, store: Path) -> None:
    """A pin outlives a restart, holds against eviction, is refused beyond the budget, and can be ended."""
    proxy = processes.serve(published.url, store, "--keep-versions", "1", "--budget", "30MiB")
    admin = store / "admin.sock"

    def post(target: str) -> Answer:
        return ask(admin, f"/v1/models/{target}", method="POST")

    post("org/bert@6:warm").problem(409, "not-kept")
    pinned = post("org/bert@6:pin").json()
    assert (pinned["model"], pinned["version"], pinned["cached"]) == ("org/bert", "6", {})
    assert "model.safetensors" in pinned["bytes"]
    warmed = post("org/bert@6:warm").json()
    assert warmed["cached"] == pinned["bytes"]
    post("org/bert@6:evict").problem(409, "pinned")
    refused = post("org/bert@7:pin").problem(507, "pin-refused")
    assert refused["needed_bytes"] + refused["pinned_bytes"] > refused["budget_bytes"]
    proxy.process.terminate()
    processes.restart(proxy)
    assert ask(proxy.port, "/v1/models/org/bert").json()["kept"] == ["6", "7"]
    assert post("org/bert@6:unpin").json() == {"model": "org/bert", "version": "6", "was_pinned": True}
    assert post("org/bert@6:unpin").json()["was_pinned"] is False
    assert ask(proxy.port, "/v1/models/org/bert").json()["kept"] == ["7"]


def test_tokens(processes: Processes, published: Published, store: Path) -> None:
    """With tokens, only probes answer without one; answers are private; a changed file counts at once."""
    tokens = store.parent / "tokens"
    tokens.write_text("# one a line\nfirst-token\n\nsecond.token==\n")
    proxy = processes.serve(published.url, store, "--token-file", str(tokens))

    def status(target: str, token: str | None) -> int:
        return ask(proxy.port, target, {} if token is None else {"Authorization": token}).status

    for target in ("/", "/metrics", "/v1/models", WEIGHTS, "/v1/open/org/bert"):
        assert status(target, None) == 401
        assert status(target, "Bearer wrong") == 401
        assert status(target, "Basic first-token") == 401
        assert status(target, "Bearer") == 401
        assert status(target, "Bearer first-token") == 200
        assert status(target, "bearer second.token==") == 200
    for target in ("/healthz/live", "/healthz/ready"):
        assert status(target, None) == 200
    refusal = ask(proxy.port, WEIGHTS)
    refusal.problem(401, "unauthorized")
    assert refusal.headers["www-authenticate"] == 'Bearer realm="hotstart"'
    answer = ask(proxy.port, WEIGHTS, {"Authorization": "Bearer first-token"})
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    tokens.write_text("third-token\n")
    assert status("/v1/models", "Bearer first-token") == 401
    assert status("/v1/models", "Bearer third-token") == 200
    tokens.unlink()
    assert status("/v1/models", "Bearer third-token") == 200
    tokens.write_text("")
    assert status("/v1/models", "Bearer third-token") == 401
    said = proxy.process.stderr
    assert "third-token" not in said
    assert "first-token" not in said


@pytest.mark.parametrize(
    ("text", "reason"), [("", "it holds no token"), ("ok\nnot a token\n", "line 2 has more than a token")]
)
def test_a_token_file_that_cannot_be_used(
    processes: Processes, published: Published, store: Path, text: str, reason: str
) -> None:
    """A file without tokens, or with something else in it, stops the start instead of opening the proxy."""
    tokens = store.parent / "tokens"
    tokens.write_text(text)
    arguments = ("--origin", published.url, "--store", f"disk:{store}", "--token-file", str(tokens))
    finished = processes.run("serve", *arguments)
    assert finished.status == 1
    assert reason in finished.stderr
    assert "not a token" not in finished.stderr


def test_metrics(processes: Processes, published: Published, store: Path) -> None:
    """Every metric is scraped, counts what happened, and the alias that was asked for is shown."""
    proxy = processes.serve(published.url, store)
    size = (published.folders["7"] / "model.safetensors").stat().st_size
    ask(proxy.port, WEIGHTS)
    wait_until("the fill to end", lambda: proxy.metric("hotstart_fills_total", outcome="complete") == 1)
    ask(proxy.port, "/v1/models/org/bert@prod/model.safetensors")
    ask(proxy.port, "/v1/models/org/bert@9")
    answer = ask(proxy.port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.body.decode()
    for spec in METRICS:
        family = spec.name.removesuffix("_total") if spec.kind == "counter" else spec.name
        assert re.search(rf"^# TYPE {family}(_total)? {spec.kind}$", text, re.MULTILINE), spec.name
    assert proxy.metric("hotstart_requests_total", route="file", status="200", source="fill") == 1
    assert proxy.metric("hotstart_requests_total", route="file", status="200", source="hit") == 1
    assert proxy.metric("hotstart_requests_total", route="manifest", status="404") == 1
    assert proxy.metric("hotstart_answered_bytes_total", source="hit", model="org/bert") == size
    assert proxy.metric("hotstart_origin_bytes_total") == size
    assert proxy.metric("hotstart_store_used_bytes") == size
    assert proxy.metric("hotstart_store_blobs") == 1
    assert proxy.metric("hotstart_store_budget_bytes") > 0
    assert proxy.metric("hotstart_ready") == 1
    assert proxy.metric("hotstart_alias_info", model="org/bert", alias="prod", version="7") == 1
    assert proxy.metric("hotstart_first_byte_seconds_count", source="hit") == 1
    assert proxy.metric("process_open_fds") > 0
    assert "_created" not in text


def test_logs(processes: Processes, published: Published, store: Path) -> None:
    """One line a request, as JSON where asked; never a query string, whatever it holds."""
    proxy = processes.serve(published.url, store, "--log-format", "json")
    ask(
        proxy.port,
        "/v1/models/org/bert@7/config.json?X-Amz-Signature=abcdef&token=hunter2",
        {"Range": "bytes=1-2"},
    )
    ask(proxy.port, "/v1/models/org/bert@7/\x1b[31m%0a?x")
    lines = wait_until("two lines", lambda: _request_lines(proxy, at_least=2))
    first, second = lines[-2], lines[-1]
    assert first["path"] == "/v1/models/org/bert@7/config.json"
    assert {
        key: first[key] for key in ("method", "status", "bytes", "route", "source", "model", "version")
    } == {
        "method": "GET",
        "status": 206,
        "bytes": 2,
        "route": "file",
        "source": "fill",
        "model": "org/bert",
        "version": "7",
    }
    assert first["range"] == "bytes=1-2"
    assert isinstance(first["milliseconds"], float)
    assert second["status"] == 400
    for secret in ("hunter2", "abcdef", "X-Amz", "\x1b"):
        assert secret not in proxy.process.stderr


def _request_lines(proxy: Proxy, at_least: int) -> list[dict[str, object]] | None:
    lines = [json.loads(line) for line in proxy.process.stderr.splitlines()]
    found = [line for line in lines if line["event"] == "request" and "/v1/" in str(line.get("path", "/v1/"))]
    return found if len(found) >= at_least else None
