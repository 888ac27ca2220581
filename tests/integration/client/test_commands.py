"""hotstart pull, ls and load as installed commands, and the dispatcher around all of them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

from tests.integration.client.conftest import Published
from tests.support.processes import Processes, Proxy, clean_environment, command_path
from tests.support.relay import Relay


def test_help_lists_every_command(processes: Processes) -> None:
    """hotstart --help says what there is, the proxy's commands included; --version says which."""
    listed = processes.run("--help").check().stdout
    for name in ("pull", "ls", "load", "pack", "unpack", "inspect", "serve", "publish"):
        assert f"\n  {name} " in listed
    assert processes.run("--version").check().stdout == "hotstart 0.1.0\n"
    assert "usage: hotstart load" in processes.run("load", "--help").check().stdout


def test_wrong_usage_is_status_2(processes: Processes) -> None:
    """No command, an unknown one, and a wrong option each say what is expected, with status 2."""
    for arguments, expected in (
        (("nope",), "no command 'nope': there are"),
        (("load",), "the following arguments are required: REF"),
        (("load", "org/bert", "--verify", "all"), "invalid choice: 'all'"),
        (("--nope",), "usage: hotstart"),
    ):
        finished = processes.run(*arguments)
        assert finished.status == 2
        assert expected in finished.stderr
        assert finished.stdout == ""


def test_a_missing_extra_is_one_sentence_with_the_pip_command(processes: Processes) -> None:
    """A command whose packages are not installed says so, and --help still lists the others."""
    code = (
        "import sys\n"
        "for name in ('aiohttp', 'aiobotocore', 'numpy'): sys.modules[name] = None\n"
        "from hotstart.commands.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    listed = processes.python(code, "--help").wait().check().stdout
    assert "(needs pip install 'hotstart[proxy]')" in listed
    finished = processes.python(code, "serve", "--origin", "file:///x", "--store", "disk:/y").wait()
    assert finished.status == 2
    assert finished.stderr.count("\n") == 1
    assert "not installed: pip install 'hotstart[proxy]'" in finished.stderr


def test_an_error_of_ours_is_status_1_without_a_traceback(processes: Processes) -> None:
    """What goes wrong is a message on stderr that says what to do next."""
    finished = processes.run("load", "org/bert@7")
    assert finished.status == 1
    assert finished.stdout == ""
    assert "set one or more of HOTSTART_PROXY" in finished.stderr
    assert "Traceback" not in finished.stderr
    finished = processes.run("load", "org//bert", "--origin", "file:///x")
    assert (finished.status, finished.stderr.count("\n")) == (1, 1)


def test_load_prints_the_time_line(processes: Processes, published: Published) -> None:
    """The time line is there for people and as JSON."""
    printed = processes.run("load", "org/bert", "--origin", published.origin).check().stdout
    for line in (
        "org/bert@2, opened by",
        "connect",
        "open ",
        "first byte",
        "first tensor",
        "last tensor",
        "GB/s",
    ):
        assert line in printed
    report = json.loads(
        processes.run("load", "org/bert", "--origin", published.origin, "--json", "--framework", "numpy")
        .check()
        .stdout
    )
    assert report["version"] == "2"
    assert report["tensors"] == 16
    assert report["representations"] == ["identity"]
    shards = sum(path.stat().st_size for path in published.weights("org/bert@2"))
    assert sum(report["received_bytes"].values()) == shards
    assert report["tensor_bytes"] < shards


def test_pull_downloads_a_version(processes: Processes, published: Published, tmp_path: Path) -> None:
    """pull prints the folder alone on stdout, and nothing on stderr where that is no terminal."""
    finished = processes.run("pull", "org/bert@2", str(tmp_path / "m"), "--origin", published.origin).check()
    assert (finished.stdout, finished.stderr) == (f"{tmp_path / 'm'}\n", "")
    assert (tmp_path / "m" / "1_Pooling" / "config.json").exists()
    again = processes.run(
        "pull", "org/bert@2", str(tmp_path / "m"), "--origin", published.origin, "--json"
    ).check()
    done = json.loads(again.stdout)
    assert done["files"] == 7
    assert sum(done["received_bytes"].values()) == 0


def test_pull_draws_bars_on_a_terminal(published: Published, tmp_path: Path) -> None:
    """On a terminal there is a bar, and stdout still is the folder alone."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [command_path(), "pull", "org/bert@1", str(tmp_path), "--origin", published.origin],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env=clean_environment({"TERM": "xterm"}),
    )
    os.close(secondary)
    drawn = b""
    while True:
        try:
            data = os.read(primary, 65536)
        except OSError:
            break
        if not data:
            break
        drawn += data
    os.close(primary)
    stdout, _ = process.communicate()
    assert process.returncode == 0, drawn
    assert stdout.decode() == f"{tmp_path}\n"
    assert b"org/bert@1" in drawn


def test_ctrl_c_leaves_nothing_half_written(
    processes: Processes, proxy: Proxy, published: Published, tmp_path: Path
) -> None:
    """Interrupted in the middle, pull ends with 130, and what is in the folder is whole."""
    folder = tmp_path / "m"
    with Relay(proxy.port) as relay:
        relay.answers.hold_after(6_000_000)
        process = processes.hotstart("pull", "org/bert@1", str(folder), "--proxy", relay.url)
        relay.answers.wait_until_held()
        process.send(signal.SIGINT)
        finished = process.wait()
    assert finished.status == 130
    assert finished.stderr == "hotstart: interrupted\n"
    assert not list(folder.rglob(".hotstart-*"))
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (published.folders["org/bert@1"] / path.relative_to(folder)).read_bytes()


def test_nobody_reads_the_output(published: Published) -> None:
    """A reader that has gone (head) is no error to talk about."""
    shell = f"{command_path()} ls org/bert@2 --origin {published.origin} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=clean_environment(), check=True
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_ls_lists_models_versions_and_files(processes: Processes, published: Published, proxy: Proxy) -> None:
    """ls shows the same of origin and proxy, newest first, with aliases, sizes, and what is cached."""
    for option, url in (("--origin", published.origin), ("--proxy", proxy.url)):
        assert processes.run("ls", option, url).check().stdout == "org/bert\norg/odd\n"
        lines = processes.run("ls", "org/bert", option, url).check().stdout.splitlines()
        assert lines[0].split()[:5] == ["VERSION", "ALIASES", "PUBLISHED", "SIZE", "CACHED"]
        assert [line.split()[0] for line in lines[1:3]] == ["2", "1"]
        assert "prod, latest" in lines[1]
        assert "19.0 MB" in lines[2]
        found = json.loads(processes.run("ls", "org/bert@2", option, url, "--json").check().stdout)
        paths = [file["path"] for file in found["files"]]
        assert "model.safetensors.index.json" in paths
        assert "model-00002-of-00003.safetensors.zst" in paths
    processes.run("load", "org/bert@1", "--proxy", proxy.url, "--compression", "none").check()
    described = json.loads(processes.run("ls", "org/bert", "--proxy", proxy.url, "--json").check().stdout)
    assert [version["version"] for version in described["versions"]] == ["2", "1"]


def test_ls_says_what_is_ignored_and_why(processes: Processes, tmp_path: Path) -> None:
    """Of an origin, ls lists what does not count as a version, with the reason."""
    young = tmp_path / "org" / "bert" / "1"
    young.mkdir(parents=True)
    (young / "model.safetensors").write_bytes(b"")
    printed = processes.run("ls", "org/bert", "--origin", f"file://{tmp_path}").check().stdout
    assert "ignored:" in printed
    assert "org/bert/1" in printed


def test_ls_looks_into_other_layouts(processes: Processes, tmp_path: Path) -> None:
    """With --layout, versions have sizes and files; names that a terminal would obey are escaped."""
    folder = tmp_path / "store" / "org" / "bert" / "1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "\x1b[31mred").write_bytes(b"")
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    layout = ("--origin", f"file://{tmp_path}", "--layout", "store/{model}/{version}/{file}")
    printed = processes.run("ls", "org/bert", *layout).check().stdout
    assert re.search(r"^1 \(adopted\) +latest +2023-11-14T22:13:20.000Z +2 B ", printed, re.MULTILINE)
    assert r"store/org/bert/1/\x1b[31mred: file: control" in printed
    printed = processes.run("ls", "org/bert@1", *layout).check().stdout
    assert re.search(r"^config.json +2 B +unknown ", printed, re.MULTILINE)
