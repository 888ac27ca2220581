"""Several workers behind one parent, as processes: one proxy to whoever asks, signals or kills it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import Ended, ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy

BIG = "/v1/models/org/bert@7/big.bin"
SMALL = "/v1/models/org/bert@7/config.json"
SMALL_BUFFER = 16 * 1024
_SERVES = re.compile(r'event="worker serves" worker=(\d+) pid=(\d+)')
_ANSWERED = re.compile(r"event=request worker=(\d+) listener=(\w+) .*path=(\S+)")


@dataclass(frozen=True, slots=True)
class Group:
    """A proxy with several workers."""

    proxy: Proxy
    count: int

    @property
    def admin(self) -> Path:
        return self.proxy.store / "admin.sock"

    @property
    def pids(self) -> dict[int, int]:
        """The process of every worker that serves or served last, by its number."""
        return {int(number): int(pid) for number, pid in _SERVES.findall(self.proxy.process.stderr)}

    def who_answered(self, path: str) -> list[int]:
        """Return the number of the worker that answered, for every request for path."""
        return [int(item[0]) for item in _ANSWERED.findall(self.proxy.process.stderr) if item[2] == path]

    def metric(self, name: str) -> float:
        return self.proxy.metric(name)


Serve = Callable[..., Group]


@pytest.fixture
def serve(processes: Processes, published: Published, store: Path) -> Serve:
    """Starts a proxy with workers, and waits until all of them serve."""

    def serve(*arguments: str, count: int = 3) -> Group:
        proxy = processes.serve(published.url, store, "--workers", str(count), *arguments)
        proxy.process.wait_for_output("serves file://")
        return Group(proxy, count)

    return serve


def state_of(pid: int) -> str | None:
    """Return a process's state letter; None if there is none, or only what its parent has not looked at."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else state


def refused(place: int | Path) -> bool:
    try:
        with connected(place):
            return False
    except OSError:
        return True


def test_all_workers_serve_on_every_listener(serve: Serve, published: Published) -> None:
    """Each worker takes connections of TCP, Unix and admin socket, and what it sends is right."""
    group = serve()
    expected = (published.folders["7"] / "config.json").read_bytes()
    for place in (group.proxy.port, group.proxy.unix):
        served: set[int] = set()

        def all_have(place: int | Path = place, served: set[int] = served) -> bool:
            seen = len(group.who_answered(SMALL))
            assert ask(place, SMALL).body == expected
            served |= set(group.who_answered(SMALL)[seen:])
            return len(served) == group.count

        wait_until(f"all workers to serve on {place}", all_have)

    def all_took_admin() -> bool:
        assert ask(group.admin, "/v1/gc", method="POST").json() == {"freed_bytes": 0}
        return len(set(group.who_answered("/v1/gc"))) == group.count

    wait_until("all workers to take administrative requests", all_took_admin)
    assert ask(group.proxy.port, BIG).body == (published.folders["7"] / "big.bin").read_bytes()


def test_it_says_once_that_it_serves(processes: Processes, published: Published, store: Path) -> None:
    """One line when all workers serve, with the port that the kernel chose; warnings once too."""
    process = processes.hotstart(
        "serve",
        *("--origin", published.url, "--store", f"disk:{store}", "--workers", "3"),
        *("--listen", "127.0.0.1:0", "--listen", f"unix:{store.parent / 'x.sock'}", "--socket-mode", "0600"),
        environment={"HOTSTART_SERVE_PORT": "tcp://10.0.0.1:8470"},
    )
    process.wait_for_output("serves file://")
    match = re.fullmatch(
        r"hotstart \S+ serves \S+ from \S+ on http://127\.0\.0\.1:(\d+), unix:(\S+) \(admin unix:(\S+)\)"
        r" with 3 workers\n",
        process.stdout,
    )
    assert match is not None, process.stdout
    assert ask(int(match[1]), "/healthz/ready").status == 200
    assert Path(match[2]).stat().st_mode & 0o777 == 0o600
    assert Path(match[3]).stat().st_mode & 0o777 == 0o600
    assert process.stderr.count("HOTSTART_SERVE_PORT is no setting") == 1
    assert sorted(int(number) for number, _ in _SERVES.findall(process.stderr)) == [1, 2, 3]
    assert process.terminate().status == 0
    assert process.stdout.count("\n") == 1
    assert not any(Path(path).exists() for path in match.groups()[1:])


def test_a_scrape_is_of_the_whole(serve: Serve) -> None:
    """Whichever worker and listener is asked, counts are those of all, and the shared store counts once."""
    group = serve()
    proxy = group.proxy
    bodies = []
    while len(set(group.who_answered(SMALL))) < group.count:
        bodies.append(ask(proxy.port, SMALL).body)

    def all_counted() -> bool:
        return proxy.metric("hotstart_requests_total", route="file") == len(bodies)

    wait_until("all requests to be counted", all_counted)
    while len(set(group.who_answered("/metrics"))) < group.count:
        assert all_counted()
        assert proxy.metric("hotstart_answered_bytes_total") == sum(map(len, bodies))
        assert proxy.metric("hotstart_first_byte_seconds_count") == len(bodies)
        assert proxy.metric("hotstart_workers") == group.count
        assert proxy.metric("hotstart_build_info") == 1
        assert proxy.metric("hotstart_ready") == 1
        assert proxy.metric("hotstart_store_blobs") == 1
        assert proxy.metric("hotstart_workers_replaced_total") == 0
        # Successful scrapes are logged at debug, so this one is asked for in a way that fails.
        ask(proxy.port, "/metrics", method="POST")
    for place in (proxy.unix, group.admin):
        text = ask(place, "/metrics").body.decode()
        assert f"hotstart_workers {group.count}.0" in text
        assert "_created" not in text


def test_a_killed_worker_is_replaced(serve: Serve, published: Published) -> None:
    """SIGKILL of a worker costs its own connections; others go on, it is replaced, no count falls."""
    group = serve()
    proxy = group.proxy
    before = group.pids
    expected = (published.folders["7"] / "big.bin").read_bytes()
    assert ask(proxy.port, BIG).body == expected
    descriptors = len(os.listdir(f"/proc/{proxy.process.pid}/fd"))
    answered = proxy.metric("hotstart_answered_bytes_total")
    assert answered == BIG_BYTES
    for round_ in (1, 2):
        for number in before:
            victim = group.pids[number]
            os.kill(victim, signal.SIGKILL)
            assert ask(proxy.port, SMALL).status == 200
            wait_until("a new worker to serve", lambda n=number, v=victim: group.pids[n] != v)  # type: ignore[misc]
            assert not Path(f"/proc/{victim}").exists(), "it was not reaped"
        wait_until("all to be counted", lambda: proxy.metric("hotstart_workers") == group.count)
        assert proxy.metric("hotstart_workers_replaced_total") == round_ * group.count
        assert proxy.metric("hotstart_answered_bytes_total") >= answered
        answered = proxy.metric("hotstart_answered_bytes_total")
    assert len(os.listdir(f"/proc/{proxy.process.pid}/fd")) == descriptors
    assert ask(proxy.port, BIG).body == expected
    assert "was ended by SIGKILL" in proxy.process.stderr
    assert proxy.process.terminate().status == 0
    assert proxy.process.stdout.count("\n") == 1


def test_a_worker_told_to_end_drains_and_is_replaced(serve: Serve) -> None:
    """SIGTERM to one worker alone loses no transfer, and no count."""
    group = serve(count=2)
    with connected(group.proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        _, headers = wire.head()
        wire.exactly(1000)
        pids = group.pids
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        wait_until("a worker to be replaced", lambda: group.pids != pids)
        wire.exactly(int(headers["content-length"]) - 1000)
    wait_until("both workers to be replaced", lambda: not set(group.pids.values()) & set(pids.values()))
    wait_until("all to be counted", lambda: group.metric("hotstart_workers") == 2)
    assert group.metric("hotstart_answered_bytes_total") == BIG_BYTES


def test_a_worker_that_hangs_does_not_hang_a_scrape(serve: Serve) -> None:
    """A stopped worker keeps its counts in the sum and is missing in the number of workers."""
    group = serve()
    while len(set(group.who_answered(SMALL))) < group.count:
        ask(group.proxy.port, SMALL)
    count = group.metric("hotstart_first_byte_seconds_count")
    os.kill(group.pids[2], signal.SIGSTOP)
    # The kernel may give it connections that it had begun to wait for; those are answered when it goes on.
    assert group.metric("hotstart_workers") == group.count - 1
    assert group.metric("hotstart_first_byte_seconds_count") == count
    os.kill(group.pids[2], signal.SIGCONT)
    wait_until("it to answer again", lambda: group.metric("hotstart_workers") == group.count)


def test_a_stopped_parent_is_no_half_scrape(serve: Serve) -> None:
    """Where nobody can add up, the answer is 503 and not the counts of one worker; bytes are served on."""
    group = serve(count=2)
    group.proxy.process.send(signal.SIGSTOP)
    ask(group.proxy.port, "/metrics").problem(503, "workers-silent")
    assert ask(group.proxy.port, SMALL).status == 200
    group.proxy.process.send(signal.SIGCONT)
    assert group.metric("hotstart_workers") == 2


def test_workers_do_not_outlive_their_parent(
    processes: Processes, serve: Serve, published: Published
) -> None:
    """When the parent is killed its workers finish what they send and end; the next start has all names."""
    group = serve("--grace-period", "50s")
    proxy = group.proxy
    with connected(proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        _, headers = wire.head()
        start = wire.exactly(1000)
        pids = group.pids
        proxy.process.kill()
        for place in (proxy.port, proxy.unix, group.admin):
            wait_until(f"{place} to be refused", lambda place=place: refused(place))  # type: ignore[misc]
        wait_until(
            "all workers but one to end", lambda: sum(bool(state_of(pid)) for pid in pids.values()) == 1
        )
        processes.restart(proxy)
        rest = wire.exactly(int(headers["content-length"]) - len(start))
        assert start + rest == (published.folders["7"] / "big.bin").read_bytes()
    wait_until("the last worker to end", lambda: not any(state_of(pid) for pid in pids.values()))
    assert ask(group.admin, "/healthz/ready").status == 200


def test_a_running_transfer_finishes(serve: Serve, published: Published) -> None:
    """SIGTERM: no new connections, idle workers end, the one that sends gets its last byte out."""
    group = serve("--grace-period", "50s")
    proxy = group.proxy
    with connected(proxy.port, SMALL_BUFFER) as wire, connected(proxy.port) as idle:
        idle.request("GET", "/healthz/live")
        idle.answer()
        wire.request("GET", BIG)
        _, headers = wire.head()
        start = wire.exactly(1000)
        proxy.process.send(signal.SIGTERM)
        wait_until("new connections to be refused", lambda: refused(proxy.port) and refused(proxy.unix))
        wait_until(
            "idle workers to end", lambda: sum(bool(state_of(pid)) for pid in group.pids.values()) == 1
        )
        ready = ask(group.admin, "/healthz/ready")
        assert (ready.status, ready.json()["status"]) == (503, "draining")
        assert "hotstart_ready 0.0" in ask(group.admin, "/metrics").body.decode()
        assert idle.until_end() == b""
        rest = wire.exactly(int(headers["content-length"]) - len(start))
        assert start + rest == (published.folders["7"] / "big.bin").read_bytes()
    assert proxy.process.wait().status == 0
    assert not group.admin.exists()
    assert "Traceback" not in proxy.process.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_counts_once(serve: Serve, number: signal.Signals) -> None:
    """Ctrl-C reaches parent and workers alike, and is still the first signal: transfers are drained."""
    group = serve("--grace-period", "50s")
    with connected(group.proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        _, headers = wire.head()
        os.killpg(group.proxy.process.pid, number)
        wait_until("new connections to be refused", lambda: refused(group.proxy.port))
        wire.exactly(int(headers["content-length"]))
    finished = group.proxy.process.wait()
    assert finished.status == 0
    assert "Traceback" not in finished.stderr
    assert "replaced" not in finished.stderr


def test_a_second_signal_ends_it_at_once(serve: Serve) -> None:
    """Another signal waits for nothing, and leaves neither worker nor socket file."""
    group = serve("--grace-period", "1h")
    proxy = group.proxy
    with connected(proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        wire.head()
        wire.exactly(1000)
        proxy.process.send(signal.SIGTERM)
        wait_until("the drain to begin", lambda: refused(proxy.port))
        proxy.process.send(signal.SIGINT)
        assert proxy.process.wait().status == 128 + signal.SIGINT
    assert not any(state_of(pid) for pid in group.pids.values())
    assert not proxy.unix.exists()
    assert not group.admin.exists()


def test_a_transfer_that_outlasts_the_grace_period_is_cut(serve: Serve) -> None:
    """When the grace period is over the worker cuts it, and all end well."""
    group = serve("--grace-period", "300ms")
    with connected(group.proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        wire.head()
        wire.exactly(1000)
        group.proxy.process.send(signal.SIGTERM)
        assert group.proxy.process.wait().status == 0
        with pytest.raises((Ended, ConnectionResetError)):
            wire.exactly(BIG_BYTES - 1000)
    assert "transfers_cut=1" in group.proxy.process.stderr


def test_told_to_end_while_it_starts(processes: Processes, published: Published, store: Path) -> None:
    """A signal that comes before anything serves is an orderly end."""
    process = processes.hotstart(
        *("serve", "--origin", published.url, "--store", f"disk:{store}", "--listen", "127.0.0.1:0"),
        *("--workers", "4"),
    )
    process.wait_for_output("worker serves")
    finished = process.terminate()
    assert finished.status == 0
    assert "Traceback" not in finished.stderr


def test_what_stands_in_the_way_of_a_start(processes: Processes, published: Published, store: Path) -> None:
    """It is said once, in the sentence that one worker alone would use, with the same exit status."""
    not_a_folder = store.parent / "file"
    not_a_folder.write_text("")
    other = processes.serve(published.url, store.parent / "other")
    unix = store.parent / "x.sock"
    good = ("--origin", published.url, "--store", f"disk:{store}")
    listen = ("--listen", "127.0.0.1:0", "--listen", f"unix:{unix}")
    for arguments in (
        ("--store", f"disk:{not_a_folder}"),
        ("--origin", f"file://{store.parent}/none"),
        ("--origin", "s3://b"),
        ("--listen", f"127.0.0.1:{other.port}"),
    ):
        command = ("serve", *good, *listen, *arguments)
        alone, several = processes.run(*command), processes.run(*command, "--workers", "3")
        assert (several.status, several.stdout, several.stderr) == (1, "", alone.stderr)
        assert several.stderr.count("\n") == 1
        assert not unix.exists()
        assert not list(store.glob("*.sock"))


def test_it_gives_up_when_no_worker_stays_up(serve: Serve) -> None:
    """A store that cannot be opened any more ends the proxy, with the reason, not in an endless loop."""
    group = serve(count=2)
    group.proxy.store.rename(group.proxy.store.with_name("moved"))
    group.proxy.store.write_text("no folder")
    for pid in group.pids.values():
        os.kill(pid, signal.SIGKILL)
    finished = group.proxy.process.wait()
    assert finished.status == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("hotstart: no worker stays up; the last: ")
    assert str(group.proxy.store) in last
    assert not group.proxy.unix.exists()


def test_what_one_worker_warms_all_have(serve: Serve, published: Published) -> None:
    """Administrative requests reach any one worker, and what it fills is a hit for all."""
    group = serve()
    version = "/v1/models/org/bert@7"
    assert ask(group.admin, f"{version}:warm", method="POST").status == 200
    fetched = group.metric("hotstart_origin_bytes_total")
    assert fetched > BIG_BYTES
    expected = (published.folders["7"] / "config.json").read_bytes()
    while len(set(group.who_answered(SMALL))) < group.count:
        assert ask(group.proxy.port, SMALL).body == expected
    assert group.metric("hotstart_origin_bytes_total") == fetched
    assert "freed_bytes" in ask(group.admin, f"{version}:evict", method="POST").json()
    assert ask(group.proxy.port, SMALL).body == expected


def test_two_proxies_with_workers_on_one_store(
    processes: Processes, serve: Serve, published: Published
) -> None:
    """Each has one admin socket of its own, named after the parent where the first name is taken."""
    first = serve(count=2)
    second = processes.serve(published.url, first.proxy.store, "--workers", "2")
    assert ask(first.admin, "/healthz/ready").status == 200
    named = first.proxy.store / f"admin-{second.process.pid}.sock"
    assert ask(named, "/healthz/ready").status == 200
    assert sorted(first.proxy.store.glob("*.sock")) == sorted((first.admin, named))
