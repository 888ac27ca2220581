"""``hotstart pack`` and ``hotstart unpack`` as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from hotstart.wire.safetensors import build_header
from tests.support.deadlines import wait_until
from tests.support.models import small_tensors
from tests.support.processes import Processes, command_path

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Safetensors file of 5 MiB in several frames."""
    path = tmp_path / "model.safetensors"
    save_file(small_tensors(mebibytes=5), path, {"format": "pt"})
    return path


@pytest.fixture
def packed(source: Path, processes: Processes) -> Path:
    """What pack makes of it."""
    processes.run("pack", str(source)).check()
    return source.with_name("model.safetensors.zst")


def sparse(path: Path, data_bytes: int) -> Path:
    """Write a file with one tensor of zeros that takes no space on the disk."""
    with path.open("wb") as file:
        file.write(build_header([("zeros", "U8", (data_bytes,))]))
        file.truncate(file.tell() + data_bytes)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "processes"}


def test_round_trip(source: Path, packed: Path, processes: Processes, tmp_path: Path) -> None:
    """pack writes FILE.zst; unpack takes the suffix off, gives the file back and says so."""
    moved = packed.rename(tmp_path / "copy.safetensors.zst")
    finished = processes.run("unpack", str(moved)).check()
    assert (tmp_path / "copy.safetensors").read_bytes() == source.read_bytes()
    assert finished.stdout == f"{tmp_path}/copy.safetensors: {source.stat().st_size:,} bytes\n"
    assert names(tmp_path) == {"model.safetensors", "copy.safetensors", "copy.safetensors.zst"}


def test_round_trip_of_planes(source: Path, processes: Processes, tmp_path: Path) -> None:
    """pack --planes writes FILE.zsp, smaller than FILE.zst; unpack takes it back, whatever its name."""
    said = processes.run("pack", "--planes", str(source)).check().stdout
    packed = source.with_name("model.safetensors.zsp")
    size, whole = packed.stat().st_size, source.stat().st_size
    assert said.startswith(f"{packed}: {size:,} bytes in ")
    assert said.endswith(f" frames, {size / whole:.1%} of {whole:,}\n")
    processes.run("pack", str(source)).check()
    assert size < 0.95 * source.with_name("model.safetensors.zst").stat().st_size
    content = source.read_bytes()
    source.unlink()
    processes.run("unpack", str(packed)).check()
    assert source.read_bytes() == content
    misnamed = packed.rename(tmp_path / "copy.safetensors.zst")
    processes.run("unpack", str(misnamed)).check()
    assert (tmp_path / "copy.safetensors").read_bytes() == content


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_damage_in_planes_is_found(place: float, source: Path, processes: Processes, tmp_path: Path) -> None:
    """One flipped bit anywhere is an error that names the place, and nothing is left."""
    processes.run("pack", "--planes", str(source), "-o", str(tmp_path / "x.zsp")).check()
    data = bytearray((tmp_path / "x.zsp").read_bytes())
    data[int(len(data) * place)] ^= 1
    (tmp_path / "x.zsp").write_bytes(data)
    finished = processes.run("unpack", str(tmp_path / "x.zsp"), "-o", str(tmp_path / "out"))
    assert finished.status == 1
    assert str(tmp_path / "x.zsp") in finished.stderr
    assert names(tmp_path) == {"model.safetensors", "x.zsp"}


def test_what_pack_says(source: Path, processes: Processes, tmp_path: Path) -> None:
    """pack names what it wrote, its size, its frames and the ratio, and leaves the source alone."""
    before = source.read_bytes()
    output = tmp_path / "out.zst"
    finished = processes.run("pack", str(source), "-o", str(output)).check()
    size, whole = output.stat().st_size, source.stat().st_size
    assert finished.stdout.startswith(f"{output}: {size:,} bytes in ")
    assert finished.stdout.endswith(f" frames, {size / whole:.1%} of {whole:,}\n")
    assert source.read_bytes() == before


def test_modes_are_a_new_files(packed: Path, processes: Processes, tmp_path: Path) -> None:
    """What is written may be read by whoever the umask lets, not by its writer alone."""
    mask = os.umask(0)
    os.umask(mask)
    processes.run("unpack", str(packed), "-o", str(tmp_path / "x")).check()
    for path in (packed, tmp_path / "x"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_nothing_is_overwritten(
    command: str, source: Path, packed: Path, processes: Processes, tmp_path: Path
) -> None:
    """A file that is there is only replaced with --force."""
    output = tmp_path / "precious"
    output.write_text("precious")
    given = str(source if command == "pack" else packed)
    finished = processes.run(command, given, "-o", str(output))
    assert finished.status == 1
    assert finished.stderr == f"hotstart: cannot write {output}: it is there already; --force replaces it\n"
    assert output.read_text() == "precious"
    processes.run(command, given, "-o", str(output), "--force").check()
    assert output.read_bytes() == (packed if command == "pack" else source).read_bytes()


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_what_is_read_is_never_replaced(
    command: str, source: Path, packed: Path, processes: Processes, tmp_path: Path
) -> None:
    """The file itself as OUT is refused, --force or not, and under any name of it."""
    given = source if command == "pack" else packed
    before = given.read_bytes()
    (tmp_path / "link").symlink_to(given)
    for output in (given, tmp_path / "link"):
        finished = processes.run(command, str(given), "-o", str(output), "--force")
        assert finished.status == 1
        assert "it is the file that is read" in finished.stderr
    assert given.read_bytes() == before


def test_noise_gets_no_twin(processes: Processes, tmp_path: Path) -> None:
    """A file in which nothing shrinks is left as it is; pack says so, and it is no error."""
    noise = numpy.random.default_rng(4).integers(0, 256, 5 * MIB, dtype=numpy.uint8)
    save_file({"noise": noise}, tmp_path / "noise.safetensors", {"k": "v" * 10_000})
    finished = processes.run("pack", str(tmp_path / "noise.safetensors")).check()
    assert "no frame of its tensors gets 3% smaller" in finished.stdout
    assert names(tmp_path) == {"noise.safetensors"}


def test_a_file_without_tensors_gets_no_twin(processes: Processes, tmp_path: Path) -> None:
    """A header alone is not worth a second copy."""
    save_file({}, tmp_path / "empty.safetensors", {"k": "v" * 10_000})
    processes.run("pack", str(tmp_path / "empty.safetensors")).check()
    assert names(tmp_path) == {"empty.safetensors"}


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("pack", b"", "0 bytes: expected at least 8"),
        ("pack", b"<!DOCTYPE html>", "is this a .safetensors file?"),
        ("pack", b"\xff\0\0\0\0\0\0\0{}", "claims 255 bytes, but the file has 10"),
        ("pack", b"\2\0\0\0\0\0\0\0{}data", "describes a file of 10 bytes, but the file has 14"),
        ("unpack", b"", "0 bytes: too few for a frame and a seek table"),
        ("unpack", b"\x28\xb5\x2f\xfd" + bytes(100), "seek table of"),
        ("unpack", bytes.fromhex("00" * 20 + "ffffff07 00 b1ea928f"), "but the file has 29"),
    ],
)
def test_malformed_input(
    command: str, content: bytes, message: str, processes: Processes, tmp_path: Path
) -> None:
    """What is no such file is named, with what was found, and nothing is written."""
    (tmp_path / "x.zst").write_bytes(content)
    finished = processes.run(command, str(tmp_path / "x.zst"), "-o", str(tmp_path / "out"))
    assert finished.status == 1
    assert message in finished.stderr
    assert str(tmp_path / "x.zst") in finished.stderr
    assert names(tmp_path) == {"x.zst"}


def test_plain_zstd_is_not_unpacked(source: Path, processes: Processes, tmp_path: Path) -> None:
    """A file that the zstd command made has no seek table, and unpack says so."""
    plain = tmp_path / "plain.zst"
    subprocess.run([command_path("zstd"), "-q", source, "-o", plain], check=True)
    finished = processes.run("unpack", str(plain))
    assert finished.status == 1
    assert "is this what hotstart pack wrote?" in finished.stderr
    assert "malformed seek table" in finished.stderr


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_damage_is_found(place: float, packed: Path, processes: Processes, tmp_path: Path) -> None:
    """One flipped bit anywhere is an error that names the place, and nothing is left."""
    data = bytearray(packed.read_bytes())
    data[int(len(data) * place)] ^= 1
    packed.write_bytes(data)
    finished = processes.run("unpack", str(packed), "-o", str(tmp_path / "out"))
    assert finished.status == 1
    assert str(packed) in finished.stderr
    assert names(tmp_path) == {"model.safetensors", "model.safetensors.zst"}


@pytest.mark.parametrize("missing", [1, 2, 3, 4, 9, 1000])
def test_truncation_is_found(missing: int, packed: Path, processes: Processes) -> None:
    """A copy that broke off is an error."""
    os.truncate(packed, packed.stat().st_size - missing)
    finished = processes.run("unpack", str(packed), "--force")
    assert finished.status == 1
    assert "malformed seek table" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pack", "{}/absent"), "cannot read {}/absent: No such file or directory"),
        (("pack", "{}"), "cannot read {}: it is not a regular file"),
        (("pack", "{}/pipe"), "cannot read {}/pipe: it is not a regular file"),
        (("unpack", "{}/absent.zst"), "cannot read {}/absent.zst: No such file or directory"),
        (("unpack", "{}/model.safetensors"), "its name does not end in .zst or .zsp; say where to with -o"),
        (("pack", "{}/model.safetensors", "-o", "{}/no/folder"), "cannot write {}/no/folder: No such file"),
    ],
)
@pytest.mark.usefixtures("source")
def test_paths_that_cannot_be(
    arguments: tuple[str, ...], message: str, processes: Processes, tmp_path: Path
) -> None:
    """A path that cannot be read or written is an error that says which and why, not a traceback."""
    os.mkfifo(tmp_path / "pipe")
    finished = processes.run(*(argument.format(tmp_path) for argument in arguments))
    assert finished.status == 1
    assert message.format(tmp_path) in finished.stderr
    assert "Traceback" not in finished.stderr


def test_longest_name(packed: Path, processes: Processes, tmp_path: Path) -> None:
    """A name as long as the filesystem allows can be written."""
    output = tmp_path / ("é" * 127 + "x")
    processes.run("unpack", str(packed), "-o", str(output)).check()
    assert output.exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_pack_leaves_nothing(
    processes: Processes, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Ctrl-C or SIGTERM in the middle removes what was written so far; the status tells which it was."""
    # Seconds of work, so that it is interrupted long before its end.
    source = sparse(tmp_path / "zeros.safetensors", 16 << 30)
    process = processes.hotstart("pack", str(source))
    wait_until("pack to begin writing", lambda: len(names(tmp_path)) == 2)
    process.send(number)
    finished = process.wait()
    assert finished.status == status
    assert "Traceback" not in finished.stderr
    assert names(tmp_path) == {"zeros.safetensors"}


PEAK = """
import sys
from hotstart.commands.main import main
status = main(sys.argv[1:])
# Not getrusage: its maximum is inherited from the process that started this one.
with open("/proc/self/status") as lines:
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(status)
"""


def test_memory_is_bounded(processes: Processes, tmp_path: Path) -> None:
    """However large the file is, packing and unpacking it take the memory of a few frames."""
    source = sparse(tmp_path / "zeros.safetensors", 256 * MIB)
    packed = source.with_name("zeros.safetensors.zst")
    for arguments in (("pack", str(source)), ("unpack", str(packed), "-o", str(tmp_path / "out"))):
        finished = processes.start(sys.executable, "-c", PEAK, *arguments).wait().check()
        assert int(finished.stdout.split()[-1]) * 1024 < 64 * MIB
    assert (tmp_path / "out").stat().st_size == source.stat().st_size
