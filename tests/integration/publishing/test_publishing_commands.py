"""The installed commands as processes: publish, alias, unpublish, presign, and what signals leave behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.timestamps import format_timestamp
from hotstart_proxy.commands.publishing_progress import drawn_progress
from hotstart_proxy.publishing.progress import Stage
from tests.integration.publishing.test_publish import FILES, TWINS
from tests.support.models import make_model
from tests.support.processes import Processes
from tests.support.relay import Relay
from tests.support.s3 import S3Server


@pytest.fixture
def environment(origin_url: str, tmp_path: Path) -> dict[str, str]:
    """The variables by which a command finds the origin, and a TMPDIR of its own."""
    return environment_of(origin_url, tmp_path)


def environment_of(origin_url: str, tmp_path: Path) -> dict[str, str]:
    room = tmp_path / "room"
    room.mkdir(exist_ok=True)
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**aws, "HOTSTART_ORIGIN": origin_url, "TMPDIR": str(room)}


def test_life_of_a_version(
    processes: Processes, environment: dict[str, str], model_folder: Path, tmp_path: Path
) -> None:
    """Publish, publish again, move an alias, unpublish: each says what it did, in words and in JSON."""
    (model_folder / ".cache").mkdir()
    publish = ("publish", str(model_folder), "org/bert@7")
    done = processes.run(*publish, "--alias", "prod", "--metadata", "run=42", environment=environment).check()
    assert "left out: .cache/ (hidden)" in done.stderr
    assert sorted(done.stderr.splitlines()[:-1]) == sorted(f"{path}: uploaded" for path in [*FILES, *TWINS])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("org/bert@7 published: 4 files, ")
    assert lines[1].startswith("model.safetensors.zsp: ")
    assert lines[2].startswith("model.safetensors.zst: ")
    assert lines[3] == "aliases: prod"
    assert lines[4].startswith("sent 6 objects, ")
    assert "GB/s" in lines[4]

    done = processes.run(*publish, "--json", environment=environment).check()
    summary = json.loads(done.stdout)
    assert (summary["outcome"], summary["sent_objects"], summary["files"]) == ("unchanged", 0, 4)
    assert [twin["path"] for twin in summary["twins"]] == TWINS
    assert 0.5 < summary["twins"][0]["ratio"] < 0.97 * summary["twins"][1]["ratio"]

    (model_folder / "config.json").write_text("{}")
    done = processes.run(*publish, environment=environment)
    assert done.status == 1
    assert "published already, with other bytes" in done.stderr
    assert "config.json" in done.stderr
    processes.run("publish", str(model_folder), "org/bert@8", environment=environment).check()

    done = processes.run("unpublish", "org/bert@7", environment=environment)
    assert done.status == 1
    assert "is what prod means: move that alias first" in done.stderr
    done = processes.run("alias", "org/bert", "prod=8", "old=7", environment=environment).check()
    assert done.stdout.splitlines() == ["org/bert@prod: 8 (was 7)", "org/bert@old: 7"]
    done = processes.run("alias", "org/bert", "old=", "--json", environment=environment).check()
    assert json.loads(done.stdout) == {
        "model": "org/bert",
        "aliases": {"prod": "8"},
        "before": {"old": "7"},
    }
    done = processes.run("unpublish", "org/bert@7", environment=environment).check()
    assert done.stdout.startswith("unpublished org/bert@7: 8 objects, ")
    assert list((tmp_path / "room").iterdir()) == []


def test_twins_for_an_adopted_version(processes: Processes, tmp_path: Path) -> None:
    """Twins are added to a folder of plain files that has been left alone for a minute."""
    folder = make_model(tmp_path / "origin" / "org" / "bert" / "7", mebibytes=1)
    environment = environment_of(f"file://{tmp_path / 'origin'}", tmp_path)
    done = processes.run("publish", "--twins", "org/bert@7", environment=environment)
    assert done.status == 1
    assert " s old: adopted once that is 60 s" in done.stderr
    hour_ago = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (hour_ago, hour_ago))
    publish = ("publish", "--twins", "org/bert@7")
    done = processes.run(*publish, "--suffix", "zst", environment=environment).check()
    assert done.stdout.startswith("org/bert@7: 1 twin (published)\nmodel.safetensors.zst: ")
    assert not (folder / "model.safetensors.zsp").exists()
    done = processes.run(*publish, environment=environment).check()
    assert done.stdout.startswith("org/bert@7: 2 twins (published)\nmodel.safetensors.zsp: ")
    assert "sent 1 object, " in done.stdout
    assert all((folder / twin).exists() for twin in TWINS)
    done = processes.run(*publish, environment=environment).check()
    assert done.stdout.startswith("org/bert@7: 2 twins (unchanged)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("publish", "DIR"), "expected DIR and org/name@version"),
        (("publish", "", "org/bert@7"), "expected DIR and org/name@version"),
        (("publish", "DIR", "org/bert"), "name the version as well"),
        (("publish", "DIR", "org/bert@latest"), "computed and cannot be given"),
        (("publish", "DIR", "org/bert@7/config.json"), "not a file of it"),
        (("publish", "DIR", "org/bert@7", "--alias", "a/b"), "alias: expected"),
        (("publish", "DIR", "org/bert@7", "--metadata", "x"), "expected KEY=VALUE"),
        (("publish", "DIR", "org/bert@7", "--metadata", "x=1", "--metadata", "x=2"), "a key was given twice"),
        (("publish", "DIR", "--twins", "org/bert@7"), "--twins stands alone"),
        (("publish", "DIR", "org/bert@7", "--suffix", "gz"), "invalid choice: 'gz'"),
        (("alias", "org/bert", "prod"), "expected NAME=VERSION"),
        (("alias", "org/bert", "prod=1", "prod=2"), "an alias was given twice"),
        (("alias", "org/bert", "latest=1"), "computed and cannot be given"),
        (("unpublish", "a/b/c@7/d@e"), "not a valid reference"),
        (("presign", "org/bert", "--expires-in", "8d"), "expected 60 seconds to 7 days"),
        (("presign", "org/bert", "--expires-in", "soon"), "expected a duration"),
    ],
)
def test_wrong_usage(processes: Processes, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """Wrong arguments end with status 2 and say what was expected."""
    done = processes.run(*arguments, environment=environment_of(f"file://{tmp_path}", tmp_path))
    assert done.status == 2
    assert message in " ".join(done.stderr.split())


def test_no_origin(processes: Processes, tmp_path: Path) -> None:
    """Without an origin the commands say how to give one."""
    done = processes.run("unpublish", "org/bert@7")
    assert done.status == 2
    assert "--origin" in done.stderr


def test_presign_writes_a_secret(processes: Processes, s3_url: str, tmp_path: Path) -> None:
    """The fallback manifest is readable by its owner alone, also where it replaces a file that was not."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    environment = environment_of(s3_url, tmp_path)
    processes.run("publish", str(folder), "org/bert@7", environment=environment).check()
    output = tmp_path / "fallback.json"
    output.write_text("old")
    output.chmod(0o644)
    arguments = ("presign", "org/bert", "--expires-in", "2h")
    done = processes.run(*arguments, "-o", str(output), environment=environment).check()
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    fallback = FallbackManifest.parse(output.read_bytes())
    assert fallback.version == "7"
    assert fallback.expires_at - fallback.signed_at == 7_200_000
    assert "6 URLs until " in done.stderr
    assert "X-Amz" not in done.stdout + done.stderr

    done = processes.run(*arguments, environment=environment).check()
    assert FallbackManifest.parse(done.stdout.encode()).version == "7"
    done = processes.run(*arguments, "-o", str(tmp_path / "no" / "file"), environment=environment)
    assert done.status == 1
    assert "cannot write the fallback manifest" in done.stderr
    done = processes.run(*arguments, "--origin", f"file://{tmp_path}", environment=environment)
    assert done.status == 1
    assert "cannot pre-sign" in done.stderr


@pytest.mark.parametrize(("hours", "warned"), [(2, True), (30, False)])
def test_presign_tells_when_the_session_ends(
    processes: Processes, s3_url: str, tmp_path: Path, hours: int, warned: bool
) -> None:
    """The end of the session that signs is printed and ends the URLs; under 24 hours it is a warning."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    environment = environment_of(s3_url, tmp_path)
    processes.run("publish", str(folder), "org/bert@7", environment=environment).check()
    ends = datetime.now(UTC) + timedelta(hours=hours)
    environment["AWS_CREDENTIAL_EXPIRATION"] = ends.isoformat()
    done = processes.run("presign", "org/bert", environment=environment).check()
    fallback = FallbackManifest.parse(done.stdout.encode())
    assert fallback.session_ends_at == fallback.expires_at
    assert abs(fallback.expires_at / 1000 - ends.timestamp()) < 60
    assert f"the session that signed it ends at {format_timestamp(fallback.expires_at)}" in done.stderr
    assert ("warning: that is in" in done.stderr) == warned


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_signal_in_the_middle_of_an_upload(
    processes: Processes,
    s3_server: S3Server,
    s3_url: str,
    model_folder: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    """A publish that a signal ends leaves nothing visible, and the same command, as it says, goes on."""
    environment = environment_of(s3_url, tmp_path)
    publish = ("publish", str(model_folder), "org/bert@7", "--json")
    with Relay(int(s3_server.endpoint.rpartition(":")[2])) as relay:
        # Small files and the claim go through, the weights of 5 MiB do not.
        relay.requests.hold_after(2 * 1024 * 1024)
        held = processes.hotstart(*publish, environment={**environment, "AWS_ENDPOINT_URL_S3": relay.url})
        relay.requests.wait_until_held()
        held.send(number)
        # What has to be cleared away at the origin gets through.
        relay.requests.release()
        done = held.wait()
    assert done.status == status
    assert done.stdout == ""
    if number != signal.SIGKILL:
        assert "interrupted. A version that is not complete stays invisible; the same" in done.stderr
        assert "Traceback" not in done.stderr
        assert list((tmp_path / "room").iterdir()) == []
    bucket = s3_url.split("/")[2]
    keys = s3_server.keys(bucket)
    assert "models/org/bert/7/.hotstart/begin.json" in keys
    assert "models/org/bert/7/.hotstart/manifest.json" not in keys
    there = sum(".hotstart" not in key for key in keys)

    done = processes.run(*publish, environment=environment).check()
    summary = json.loads(done.stdout)
    assert summary["outcome"] == "resumed"
    # The killed one's last request may have been on its way whole, and arrive after we looked.
    late = 1 if number == signal.SIGKILL else 0
    assert 6 - there - late <= summary["sent_objects"] <= 6 - there


def test_progress_on_a_terminal() -> None:
    """On a terminal bars are drawn, one a stage, that end full."""
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with drawn_progress(terminal) as progress:
        for stage in (Stage.DIGESTING, Stage.UPLOADING):
            progress.expect(stage, 1000)
            progress.expect(stage, 1000)
            progress.advance(stage, 2000)
            progress.end("file", "uploaded")
        progress.expect(Stage.FRAMING, 0)
    assert "reading" in terminal.getvalue()
    assert "2.0/2.0 kB" in terminal.getvalue()
    assert "compressing" not in terminal.getvalue()
