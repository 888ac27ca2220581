"""Starting, draining and ending, as a process."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import Ended, ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy, free_port

BIG = "/v1/models/org/bert@7/big.bin"
SMALL_BUFFER = 16 * 1024


def refused(place: int | Path) -> bool:
    try:
        with connected(place):
            return False
    except OSError:
        return True


def admin_socket(proxy: Proxy) -> Path:
    return proxy.store / "admin.sock"


def test_one_line_says_where_it_listens(processes: Processes, published: Published, store: Path) -> None:
    """With port 0 the line has the real port; IPv4, IPv6 and a Unix socket serve side by side."""
    unix = store.parent / "data.sock"
    command = ["serve", "--origin", published.url, "--store", f"disk:{store}"]
    listen = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", f"unix:{unix}"]
    process = processes.hotstart(*command, *listen)
    process.wait_for_output("serves")
    line = process.stdout
    assert line.count("\n") == 1
    match = re.search(
        r"on http://127\.0\.0\.1:(\d+), http://\[::1\]:(\d+), unix:(\S+) \(admin unix:(\S+)\)", line
    )
    assert match is not None, line
    assert published.url in line
    assert f"disk:{store}" in line
    assert ask(int(match[1]), "/healthz/ready").status == 200
    assert ask(Path(match[3]), "/healthz/ready").status == 200
    assert ask(Path(match[4]), "/healthz/ready").status == 200
    with socket.create_connection(("::1", int(match[2]))):
        pass
    finished = process.terminate()
    assert finished.status == 0
    assert not unix.exists()
    assert not Path(match[4]).exists()


def test_a_running_transfer_finishes(processes: Processes, published: Published, store: Path) -> None:
    """SIGTERM: not ready, no new connections, idle ones end, the running transfer gets its last byte."""
    proxy = processes.serve(published.url, store, "--grace-period", "50s")
    with connected(proxy.port, SMALL_BUFFER) as wire, connected(proxy.port) as idle:
        idle.request("GET", "/healthz/live")
        idle.answer()
        wire.request("GET", BIG)
        _, headers = wire.head()
        start = wire.exactly(1000)
        proxy.process.send(signal.SIGTERM)
        wait_until("new connections to be refused", lambda: refused(proxy.port) and refused(proxy.unix))
        ask(admin_socket(proxy), "/healthz/ready").json()
        ready = ask(admin_socket(proxy), "/healthz/ready")
        assert (ready.status, ready.json()["status"]) == (503, "draining")
        assert ask(admin_socket(proxy), "/healthz/live").status == 200
        assert idle.until_end() == b""
        rest = wire.exactly(int(headers["content-length"]) - len(start))
        assert start + rest == (published.folders["7"] / "big.bin").read_bytes()
        assert wire.until_end() == b""
    assert proxy.process.wait().status == 0


def test_a_transfer_that_outlasts_the_grace_period_is_cut(
    processes: Processes, published: Published, store: Path
) -> None:
    """When the grace period is over the connection ends short, and the process ends well."""
    proxy = processes.serve(published.url, store, "--grace-period", "300ms")
    with connected(proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        wire.head()
        wire.exactly(1000)
        proxy.process.send(signal.SIGTERM)
        assert proxy.process.wait().status == 0
        with pytest.raises((Ended, ConnectionResetError)):
            wire.exactly(BIG_BYTES - 1000)
    assert "transfers_cut=1" in proxy.process.stderr


def test_an_interrupt_ends_it_as_well(processes: Processes, published: Published, store: Path) -> None:
    """Ctrl-C is an orderly end, without a traceback."""
    proxy = processes.serve(published.url, store)
    proxy.process.send(signal.SIGINT)
    assert proxy.process.wait().status == 0
    assert "Traceback" not in proxy.process.stderr


def test_a_second_signal_ends_it_at_once(processes: Processes, published: Published, store: Path) -> None:
    """While a transfer is drained, another signal does not wait for it; no socket file stays."""
    proxy = processes.serve(published.url, store, "--grace-period", "1h")
    with connected(proxy.port, SMALL_BUFFER) as wire:
        wire.request("GET", BIG)
        wire.head()
        wire.exactly(1000)
        proxy.process.send(signal.SIGTERM)
        wait_until("the drain to begin", lambda: refused(proxy.port))
        proxy.process.send(signal.SIGINT)
        assert proxy.process.wait().status == 128 + signal.SIGINT
    assert not proxy.unix.exists()
    assert not admin_socket(proxy).exists()


def test_a_killed_proxys_socket_files_are_replaced(
    processes: Processes, published: Published, store: Path
) -> None:
    """SIGKILL leaves socket files behind; the next start takes their place."""
    proxy = processes.serve(published.url, store)
    proxy.process.kill()
    assert proxy.unix.exists()
    processes.restart(proxy)
    assert ask(proxy.unix, "/healthz/ready").status == 200
    assert ask(admin_socket(proxy), "/healthz/ready").status == 200


def serve_fails(processes: Processes, *arguments: str, status: int = 1) -> str:
    finished = processes.run("serve", *arguments)
    assert finished.status == status, finished
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    return finished.stderr


def test_addresses_in_use(processes: Processes, published: Published, store: Path) -> None:
    """A port or socket that another process listens on is refused in one sentence, and left alone."""
    proxy = processes.serve(published.url, store)
    common = ("--origin", published.url, "--store", f"disk:{store.parent / 'other'}")
    for listen in (f"127.0.0.1:{proxy.port}", f"unix:{proxy.unix}"):
        message = serve_fails(processes, *common, "--listen", listen)
        assert f"cannot listen on {listen}: another process listens there" in message
        assert message.count("\n") == 1
    assert ask(proxy.unix, "/healthz/ready").status == 200


def test_a_file_that_is_no_socket_is_not_replaced(
    processes: Processes, published: Published, store: Path, tmp_path: Path
) -> None:
    """Somebody's file is not deleted because a socket was to be there."""
    precious = store.parent / "precious"
    precious.write_text("data")
    common = ("--origin", published.url, "--store", f"disk:{store}")
    message = serve_fails(processes, *common, "--listen", f"unix:{precious}")
    assert "a file that is no socket is there" in message
    assert precious.read_text() == "data"


def test_what_stands_in_the_way_of_a_start(processes: Processes, published: Published, store: Path) -> None:
    """A wrong origin, a store that cannot be, and a socket's missing folder are one sentence each."""
    not_a_folder = store.parent / "file"
    not_a_folder.write_text("")
    good = ("--origin", published.url, "--store", f"disk:{store}", "--listen", "127.0.0.1:0")
    for arguments, mention in (
        (("--store", f"disk:{not_a_folder}"), str(not_a_folder)),
        (("--origin", f"file://{not_a_folder}"), str(not_a_folder)),
        (("--origin", f"file://{store.parent}/none"), "there is no such folder"),
        (("--origin", "s3://b"), "bucket"),
        (("--listen", f"unix:{store.parent}/none/x.sock"), "no folder"),
    ):
        message = serve_fails(processes, *good, *arguments)
        assert mention in message
        assert message.startswith("hotstart: ")


def test_all_problems_of_the_settings_at_once(processes: Processes, tmp_path: Path) -> None:
    """Wrong settings end with status 2 and a line for each, whatever place they came from."""
    config = tmp_path / "hotstart.toml"
    config.write_text('keep_versions = "many"\n')
    finished = processes.hotstart(
        "serve",
        "--config",
        str(config),
        "--listen",
        "nowhere",
        environment={"HOTSTART_SERVE_ALIAS_TTL": "soon"},
    ).wait()
    assert finished.status == 2
    lines = finished.stderr.splitlines()
    assert lines[0] == "hotstart: 5 problems in the settings:"
    for place in ("--origin", "--store", "--listen", "HOTSTART_SERVE_ALIAS_TTL", f"{config}, keep_versions"):
        assert sum(line.startswith(f"  {place}: ") for line in lines) == 1, lines


def test_settings_from_a_file_and_the_environment(
    processes: Processes, published: Published, store: Path
) -> None:
    """A proxy starts from file and environment alone, and says what it ignores."""
    port = free_port()
    config = store.parent / "hotstart.toml"
    config.write_text(
        f'origin = "{published.url}"\nstore = "disk:{store}"\nlisten = ["127.0.0.1:{port}"]\nalias_ttl = 77\n'
        'socket_mode = "0600"\nlog_format = "json"\n'
    )
    unix = store.parent / "x.sock"
    process = processes.hotstart(
        "serve",
        environment={
            "HOTSTART_SERVE_CONFIG": str(config),
            "HOTSTART_SERVE_LISTEN": f"127.0.0.1:{port},unix:{unix}",
            "HOTSTART_SERVE_PORT": "tcp://10.0.0.1:8470",
        },
    )
    process.wait_for_output("serves")
    assert unix.stat().st_mode & 0o777 == 0o600
    assert ask(port, "/v1/models").headers["cache-control"] == "public, max-age=77"
    assert "HOTSTART_SERVE_PORT is no setting" in process.stderr
    assert '"event": "request"' in process.stderr


def test_two_proxies_on_one_store(processes: Processes, published: Published, store: Path) -> None:
    """Each proxy of a shared store has an admin socket of its own."""
    first = processes.serve(published.url, store)
    second = processes.serve(published.url, store)
    assert ask(admin_socket(first), "/healthz/ready").status == 200
    assert ask(store / f"admin-{second.process.pid}.sock", "/healthz/ready").status == 200
    assert ask(first.port, BIG).body == ask(second.port, BIG).body


def test_an_admin_listener_by_name(processes: Processes, published: Published, store: Path) -> None:
    """--admin-listen puts it elsewhere, on TCP too; nothing is left in the store then."""
    port = free_port()
    proxy = processes.serve(published.url, store, "--admin-listen", f"127.0.0.1:{port}")
    assert ask(port, "/healthz/ready").status == 200
    assert not admin_socket(proxy).exists()


def test_help_names_every_setting(processes: Processes) -> None:
    """The help has flag, unit, default and environment name of every setting."""
    text = processes.run("serve", "--help").check().stdout
    for word in ("--alias-ttl", "HOTSTART_SERVE_ALIAS_TTL", "default 10s", "80%", "--config"):
        assert word in text
