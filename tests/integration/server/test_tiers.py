"""Latency tiers over real connections: who gets which, and what batch gets beyond its limit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.server.conftest import Published
from tests.integration.server.wire import ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy

FILE = "/v1/models/org/bert@7/config.json"
BIG = "/v1/models/org/bert@7/big.bin"


def tier(name: str, token: str | None = None) -> dict[str, str]:
    """Return the headers of a request of that tier."""
    headers = {"X-Latency-Tier": name}
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


def served_as(place: int | Path, headers: Mapping[str, str]) -> str | None:
    """Ask for a file and return as what tier it was served; None if that is not said."""
    answer = ask(place, FILE, headers)
    assert answer.status == 200
    return answer.headers.get("hotstart-tier")


def refusals(proxy: Proxy) -> float:
    """Return how many requests for premium were served as standard."""
    lines = ask(proxy.unix, "/metrics", tier("standard", "may")).body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("hotstart_premium_refused_total ")]
    return float(line.split()[1])


def test_without_tokens_premium_is_for_the_unix_socket(proxy: Proxy) -> None:
    """Who says premium over TCP is served as standard, told so and counted; on the Unix socket it holds."""
    before = refusals(proxy)
    assert served_as(proxy.port, tier("premium")) == "standard"
    assert refusals(proxy) == before + 1
    assert served_as(proxy.unix, tier("premium")) == "premium"
    assert served_as(proxy.port, tier("batch")) == "batch"
    assert served_as(proxy.port, tier(" STANDARD ")) == "standard"
    assert refusals(proxy) == before + 1


def test_a_request_that_names_no_tier_is_told_none(proxy: Proxy) -> None:
    """Without the header nothing changes."""
    assert served_as(proxy.port, {}) is None


@pytest.mark.parametrize("value", ["urgent", "", "premium, batch", "warming"])
def test_an_unknown_tier(proxy: Proxy, value: str) -> None:
    """A tier that there is not is refused, with those that there are."""
    problem = ask(proxy.port, FILE, tier(value)).problem(400, "invalid-tier")
    assert "premium, standard, batch" in problem["detail"]


def test_probes_do_not_mind(proxy: Proxy) -> None:
    """What serves no model looks at no tier."""
    assert ask(proxy.port, "/healthz/live", tier("urgent")).status == 200


def test_tokens_with_the_right(processes: Processes, published: Published, store: Path) -> None:
    """Over TCP a token makes a request premium if the file says so; every token opens the Unix socket."""
    file = store.parent / "tokens"
    file.write_text("# who may what\nmay premium\nmay-not\n")
    proxy = processes.serve(published.url, store, "--token-file", str(file))
    assert served_as(proxy.port, tier("premium", "may")) == "premium"
    assert served_as(proxy.port, tier("premium", "may-not")) == "standard"
    assert served_as(proxy.unix, tier("premium", "may-not")) == "premium"
    assert refusals(proxy) == 1
    ask(proxy.unix, FILE, tier("premium")).problem(401, "unauthorized")
    file.write_text("may\nmay-not premium\n")
    wait_until("the new rights", lambda: served_as(proxy.port, tier("premium", "may-not")) == "premium")
    assert served_as(proxy.port, tier("premium", "may")) == "standard"


def test_batch_beyond_its_limit_is_told_to_come_again(
    processes: Processes, published: Published, store: Path
) -> None:
    """Past the limit batch gets 429 with Retry-After; nobody else does, and a place that is left is given."""
    proxy = processes.serve(published.url, store, "--batch-requests", "2")
    place = proxy.unix
    with connected(place, 16 * 1024) as first, connected(place, 16 * 1024) as second:
        for slow in (first, second):
            slow.request("GET", BIG, tier("batch"))
            assert slow.head()[0] == 200
        answer = ask(place, FILE, tier("batch"))
        answer.problem(429, "batch-full")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["hotstart-tier"] == "batch"
        assert ask(place, FILE, tier("batch"), method="HEAD").status == 200
        for name in ("standard", "premium"):
            assert served_as(place, tier(name)) == name
    wait_until("a place that a reader left", lambda: ask(place, FILE, tier("batch")).status == 200)
