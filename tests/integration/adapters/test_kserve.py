"""KServe's storage initializer: a folder holds one version whole, whatever happens on the way."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest

import hotstart
from hotstart.kserve import initialize
from tests.integration.adapters.conftest import Origin
from tests.support.models import make_model
from tests.support.processes import Process, Processes
from tests.support.relay import Relay

MODULE = ("-m", "hotstart.kserve")
URI = "hotstart://org/bert@prod"


def files(folder: Path) -> dict[str, bytes]:
    """Return what a model server sees: all but our own names, which begin with .hotstart."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".hotstart")}


@pytest.fixture
def versions(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two model folders with other weights and other files; the first is published as org/bert@7."""
    first = make_model(tmp_path / "seven", seed=7, mebibytes=9)
    second = make_model(tmp_path / "eight", seed=8, mebibytes=9, shards=3)
    # What was a file is a folder now.
    (first / "extra").write_text("a file")
    (second / "extra").mkdir()
    (second / "extra" / "vocab.txt").write_text("in a folder")
    (first / "1_Pooling" / "only-in-seven.json").write_text("{}")
    (first / "2_Old").mkdir()
    (first / "2_Old" / "config.json").write_text("{}")
    origin.publish(first, "org/bert@7")
    monkeypatch.setenv("HOTSTART_ORIGIN", origin.url)
    return [first, second]


class Initializer:
    """Starts the command as a container does."""

    def __init__(self, processes: Processes, environment: dict[str, str]) -> None:
        self._processes = processes
        self._environment = environment

    def start(self, *arguments: str) -> Process:
        return self._processes.start(
            sys.executable, *MODULE, *arguments, environment=self._environment, name="initializer"
        )


def test_a_folder_is_filled_as_kserve_asks(
    origin: Origin, versions: list[Path], tmp_path: Path, processes: Processes
) -> None:
    """Pairs of URI and folder, as KServe passes them, are all filled, and what is there is said."""
    initializer = Initializer(processes, {"HOTSTART_ORIGIN": origin.url})
    whole, one = tmp_path / "models" / "bert", tmp_path / "models" / "tokenizer"
    done = initializer.start(URI, str(whole), f"{URI}/tokenizer.json", str(one)).wait().check()
    assert files(whole) == files(versions[0])
    assert files(one) == {"tokenizer.json": (versions[0] / "tokenizer.json").read_bytes()}
    assert f"org/bert@7 is in {whole}" in done.stdout


def test_a_newer_version_replaces_the_older_one_whole(
    origin: Origin, versions: list[Path], tmp_path: Path
) -> None:
    """Of a version that is replaced no file is left, and what others put into the folder stays."""
    folder = tmp_path / "models"
    assert initialize(URI, folder) == "org/bert@7"
    (folder / "ours.txt").write_text("ours")
    origin.publish(versions[1], "org/bert@8")
    assert initialize(URI, folder) == "org/bert@8"
    assert files(folder) == {**files(versions[1]), "ours.txt": b"ours"}
    assert not (folder / "2_Old").exists()
    assert not (folder / ".hotstart-incoming").exists()
    assert initialize("hotstart://org/bert@7", folder) == "org/bert@7"
    assert files(folder) == {**files(versions[0]), "ours.txt": b"ours"}


def test_a_second_call_repairs_and_fetches_nothing_else(versions: list[Path], tmp_path: Path) -> None:
    """Called again with the same version, only what is missing or damaged is written."""
    initialize(URI, tmp_path / "models")
    kept = (tmp_path / "models" / "model.safetensors").stat().st_ino
    (tmp_path / "models" / "config.json").write_text("damaged")
    initialize(URI, tmp_path / "models")
    assert files(tmp_path / "models") == files(versions[0])
    assert (tmp_path / "models" / "model.safetensors").stat().st_ino == kept


def test_killed_while_it_receives_the_old_version_is_left_whole(
    origin: Origin, versions: list[Path], tmp_path: Path, processes: Processes
) -> None:
    """Killed on the way from 7 to 8, the folder holds 7; started again, 8, and what had arrived is kept."""
    proxy = processes.serve(origin.url, tmp_path / "store")
    folder = tmp_path / "models"
    initialize(URI, folder)
    origin.publish(versions[1], "org/bert@8")
    with Relay(proxy.port) as relay:
        initializer = Initializer(processes, {"HOTSTART_PROXY": relay.url})
        relay.answers.hold_after(7 * 1024 * 1024)
        killed = initializer.start("hotstart://org/bert@8", str(folder))
        relay.answers.wait_until_held()
        killed.send(signal.SIGKILL)
        assert killed.wait().status == -signal.SIGKILL
        assert files(folder) == files(versions[0])
        incoming = folder / ".hotstart-incoming"
        arrived = {path.relative_to(incoming): path.stat().st_ino for path in incoming.rglob("*.json")}
        assert arrived
        relay.answers.release()
        initializer.start("hotstart://org/bert@8", str(folder)).wait().check()
    assert files(folder) == files(versions[1])
    assert {path: (folder / path).stat().st_ino for path in arrived} == arrived


def test_an_alias_that_moved_in_between_mixes_nothing(
    origin: Origin, versions: list[Path], tmp_path: Path
) -> None:
    """What an interrupted call received of another version does not end in the folder."""
    incoming = tmp_path / "models" / ".hotstart-incoming"
    shutil.copytree(versions[0], incoming)
    origin.publish(versions[1], "org/bert@8")
    assert initialize(URI, tmp_path / "models") == "org/bert@8"
    assert files(tmp_path / "models") == files(versions[1])


@pytest.mark.parametrize("moves", [0, 1, 2, 3, 5, 8])
def test_killed_while_it_moves_files_in_it_moves_the_rest(
    origin: Origin, versions: list[Path], tmp_path: Path, processes: Processes, moves: int
) -> None:
    """A move that was cut short is brought to its end by the next call, even if the origin is away."""
    folder = tmp_path / "models"
    initialize(URI, folder)
    origin.publish(versions[1], "org/bert@8")
    cut = (
        "import os, signal, sys, pathlib\n"
        "from hotstart import kserve\n"
        "count = 0\n"
        "make_room = kserve._make_room\n"
        "def counted(root, path):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count > int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    make_room(root, path)\n"
        "kserve._make_room = counted\n"
        "kserve.initialize('hotstart://org/bert@8', sys.argv[1])\n"
    )
    killed = processes.python(cut, str(folder), str(moves), environment={"HOTSTART_ORIGIN": origin.url})
    ended = killed.wait().status
    assert ended == (-signal.SIGKILL if moves < len(files(versions[1])) else 0)
    with pytest.raises(hotstart.AllSourcesFailed):
        initialize("hotstart://org/bert@9", folder)
    assert files(folder) == files(versions[1])


def test_what_cannot_be_done_is_said_in_one_sentence(
    origin: Origin, versions: list[Path], tmp_path: Path, processes: Processes
) -> None:
    """Wrong arguments end with status 2, what fails with 1 and its reason, never a traceback."""
    initializer = Initializer(processes, {"HOTSTART_ORIGIN": origin.url})
    target = str(tmp_path / "models")
    for arguments in ((), (URI,), (URI, target, URI), (URI, target, URI, f"{target}/")):
        finished = initializer.start(*arguments).wait()
        assert finished.status == 2, arguments
    (tmp_path / "file").touch()
    for uri, place, reason in (
        ("s3://bucket/model", target, "hotstart://org/bert@prod"),
        ("hotstart://org/none@1", target, "org/none"),
        (f"{URI}/nope.json", target, "nope.json"),
        (URI, str(tmp_path / "file" / "below"), "file"),
    ):
        finished = initializer.start(uri, place).wait()
        assert finished.status == 1
        assert finished.stderr.startswith("hotstart.kserve: ")
        assert reason in finished.stderr
        assert "Traceback" not in finished.stderr
    assert not files(tmp_path / "models")
