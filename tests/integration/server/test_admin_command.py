"""``hotstart admin`` against running proxies: what it does and prints, and how it says that it cannot."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotstart_proxy.telemetry.metrics import METRICS
from tests.integration.server.conftest import Published
from tests.integration.server.wire import ask
from tests.support.deadlines import wait_until
from tests.support.processes import Finished, Processes, Proxy

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"


@pytest.fixture
def own_proxy(processes: Processes, published: Published, store: Path) -> Proxy:
    """A proxy on a store of its own."""
    return processes.serve(published.url, store, "--keep-versions", "1", "--scrub-interval", "0")


def admin(processes: Processes, proxy: Proxy, *arguments: str) -> Finished:
    """Run hotstart admin, which finds the proxy by its store."""
    return processes.run("admin", *arguments, environment={"HOTSTART_ADMIN": str(proxy.store)})


def weights_blob(published: Published, store: Path) -> Path:
    """Where the store keeps the weights of version 7."""
    files = json.loads(published.manifest("7"))["files"]
    (content_id,) = [str(item["id"]) for item in files if item["path"] == "model.safetensors"]
    return store / "blobs" / content_id[:2] / content_id


def flip_bit(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 16]))


def test_pin_warm_evict_unpin(processes: Processes, own_proxy: Proxy) -> None:
    """An old version is pinned, warmed, held against eviction, and let go again."""

    def run(*arguments: str) -> str:
        return admin(processes, own_proxy, *arguments).check().stdout

    refused = admin(processes, own_proxy, "warm", "org/bert@6")
    assert refused.status == 1
    assert "org/bert@6 is not among the versions that are kept: give it an alias" in refused.stderr
    assert "of which 0 B are here; hotstart admin warm org/bert@6 fetches the rest" in run(
        "pin", "org/bert@6"
    )
    assert run("warm", "org/bert@6").startswith("org/bert@6 is warm: 1.")
    assert run("pin", "org/bert@6").count("here") == 1
    refused = admin(processes, own_proxy, "evict", "org/bert@6")
    assert (refused.status, "org/bert@6 is pinned: unpin it first" in refused.stderr) == (1, True)
    assert run("unpin", "org/bert@6") == "org/bert@6 is no longer pinned\n"
    assert run("unpin", "org/bert@6") == "org/bert@6 was not pinned\n"
    assert run("warm", "org/bert").startswith("org/bert@7 is warm: ")
    assert run("evict", "org/bert@prod").startswith("org/bert@7: ")
    assert run("gc") == "0 B freed\n"


def test_verify_finds_a_flipped_bit(processes: Processes, own_proxy: Proxy, published: Published) -> None:
    """Verify names what is damaged and exits 1; the proxy fetches it again, and then all is sound."""
    admin(processes, own_proxy, "warm", "org/bert@7").check()
    sound = admin(processes, own_proxy, "verify").check().stdout
    assert sound.endswith("all sound\n")
    blob = weights_blob(published, own_proxy.store)
    flip_bit(blob)
    found = admin(processes, own_proxy, "verify", "--json")
    assert found.status == 1
    answer = json.loads(found.stdout)
    (damage,) = answer["damaged"]
    assert damage["reference"] == "org/bert@7/model.safetensors"
    assert damage["refill"] is True
    wait_until("the blob to be there again", blob.exists)
    assert admin(processes, own_proxy, "verify").check().stdout.endswith("all sound\n")
    served = ask(own_proxy.port, WEIGHTS)
    assert served.body == (published.folders["7"] / "model.safetensors").read_bytes()
    assert own_proxy.metric("hotstart_corruptions_total") == 1
    assert own_proxy.metric("hotstart_verified_bytes_total") >= 3 * 30 * 1024 * 1024
    assert "hotstart_verified_bytes_total" in {spec.name for spec in METRICS}


def test_the_scrub_of_a_running_proxy(processes: Processes, published: Published, store: Path) -> None:
    """A bit flipped at rest is found without anybody asking, by the scrub after the next start."""
    proxy = processes.serve(published.url, store)
    admin(processes, proxy, "warm", "org/bert@7").check()
    proxy.process.terminate().check()
    blob = weights_blob(published, store)
    flip_bit(blob)
    inode = blob.stat().st_ino
    processes.restart(proxy)
    wait_until("the scrub to find it", lambda: proxy.metric("hotstart_corruptions_total") == 1)
    wait_until("the blob to be there again", lambda: blob.exists() and blob.stat().st_ino != inode)
    assert ask(proxy.port, WEIGHTS).body == (published.folders["7"] / "model.safetensors").read_bytes()
    wait_until("the log to say so", lambda: 'event="damage at rest"' in proxy.process.stderr)


def test_unknown_versions_and_wrong_usage(processes: Processes, own_proxy: Proxy) -> None:
    """What there is not exits 1 with the proxy's words; what makes no sense exits 2 and asks nobody."""
    unknown = admin(processes, own_proxy, "warm", "org/bert@99")
    assert (unknown.status, "no version org/bert@99" in unknown.stderr) == (1, True)
    for arguments, word in (
        (("warm",), "needs a reference"),
        (("gc", "org/bert"), "takes no reference"),
        (("pin", "org/bert@7/config.json"), "whole version"),
        (("drop", "org/bert"), "invalid choice"),
    ):
        finished = admin(processes, own_proxy, *arguments)
        assert (finished.status, word in finished.stderr) == (2, True), finished


def test_an_admin_listener_over_tcp(processes: Processes, published: Published, store: Path) -> None:
    """The listener may be named by URL, and the option wins over the variable."""
    proxy = processes.serve(published.url, store, "--admin-listen", "127.0.0.1:0")
    line = proxy.process.wait_for_output("(admin ")
    address = line.partition("(admin ")[2].partition(")")[0]
    nowhere = {"HOTSTART_ADMIN": "/nowhere"}
    finished = processes.run("admin", "gc", "--admin", f"http://{address}", environment=nowhere)
    assert finished.check().stdout == "0 B freed\n"
    assert "no such folder or socket" in processes.run("admin", "gc", environment=nowhere).stderr
    elsewhere = admin(processes, proxy, "gc")
    assert (elsewhere.status, "With --admin-listen it listens elsewhere" in elsewhere.stderr) == (1, True)


def test_several_proxies_on_a_store(processes: Processes, published: Published, store: Path) -> None:
    """The first that answers is asked, it is said which, and one that was killed is passed over."""
    first = processes.serve(published.url, store)
    second = processes.serve(published.url, store)
    finished = admin(processes, first, "gc").check()
    assert f"asked unix:{store}/admin.sock; there are also unix:{store}/admin-{second.process.pid}.sock" in (
        finished.stderr
    )
    first.process.kill()
    answer = json.loads(admin(processes, first, "gc", "--json").check().stdout)
    assert answer == {"listener": f"unix:{store}/admin-{second.process.pid}.sock", "freed_bytes": 0}
    second.process.kill()
    dead = admin(processes, first, "gc")
    assert (dead.status, "nobody listens there: the proxy that made it has ended" in dead.stderr) == (1, True)


@pytest.fixture
def another_user() -> Iterator[None]:
    """Lets the test's children be somebody else, whom sockets of mode 0600 refuse."""
    if os.geteuid() != 0:
        # Nothing to do: as an ordinary user a socket of mode 0000 refuses us as well.
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_no_permission(tmp_path_factory: pytest.TempPathFactory, another_user: None) -> None:
    """A socket that this user may not open is told as that, with whose it is."""
    from hotstart.commands.admin_listener import NoAdminListener, find_listener

    del tmp_path_factory
    path = Path(f"/tmp/hs-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        try:
            path.chmod(0)
            with pytest.raises(NoAdminListener, match="permission denied: only the user who runs the proxy"):
                find_listener(f"unix:{path}", {})
        finally:
            path.unlink()


def test_ls_tells_what_is_held_and_how_it_is_used(processes: Processes, own_proxy: Proxy) -> None:
    """Per store and version: bytes, pins, hits since the start, and how long ago it was used and filled."""

    def ls(*arguments: str) -> Finished:
        return processes.run("ls", *arguments, "--proxy", own_proxy.url).check()

    (store,) = json.loads(ls("org/bert", "--json").stdout)["stores"]
    assert (store["store"], store["used_bytes"]) == (f"disk:{own_proxy.store}", 0)
    assert "here nothing" in ls("org/bert").stdout
    admin(processes, own_proxy, "pin", "org/bert@6").check()
    for version in ("6", "7"):
        admin(processes, own_proxy, "warm", f"org/bert@{version}").check()
    for _ in range(3):
        ask(own_proxy.port, WEIGHTS)
    found = json.loads(ls("org/bert", "--json").stdout)["versions"]
    seven, six = found
    assert (seven["version"], seven["is_pinned"], six["is_pinned"]) == ("7", False, True)
    (held,) = seven["stores"]
    assert (held["hits"], held["bytes"], held["is_pinned"]) == (3, seven["cached_bytes"], False)
    assert 0 <= held["used_seconds_ago"] <= held["filled_seconds_ago"]
    assert six["stores"][0]["used_seconds_ago"] is None
    lines = ls("org/bert").stdout.splitlines()
    assert lines[0].split()[-3:] == ["HITS", "USED", "FILLED"]
    assert lines[2].startswith("6 (pinned) ")
    assert lines[-1].startswith(f"disk:{own_proxy.store}: ")
    assert "used; here 7 (" in lines[-1]
    (listed,) = json.loads(ls("--json").stdout)["stores"]
    assert listed["models"]["org/bert"]["7"]["hits"] == 3
    assert ask(own_proxy.port, "/v1/models?detail=all").problem(400, "invalid-query")
    answer = ask(own_proxy.port, "/v1/models/org/bert")
    assert "stores" not in answer.json()
    detailed = ask(own_proxy.port, "/v1/models/org/bert?detail=stores")
    assert (detailed.headers["cache-control"], detailed.json()["pinned"]) == ("no-store", ["6"])
