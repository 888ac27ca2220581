"""Loading into torch modules: in place, on the meta device, tied, and what does not fit."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

import hotstart
from hotstart.devices.host import HostDevice
from hotstart.loading import LoadOptions
from hotstart.sources.base import SourceKind
from hotstart.wire.references import Reference
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.publishing.publisher import publish
from tests.integration.client.conftest import warm
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.integration.client.test_devices import rebuilt
from tests.support.processes import Processes

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

nn: Any = torch.nn

MEBIBYTE = 1024 * 1024


class Block(nn.Module):  # type: ignore[misc]
    """A linear layer, a batch norm (with buffers, one of integers), and a buffer that is not saved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.linear.bias.requires_grad_(False)

    def forward(self, x: Any) -> Any:
        return self.norm(self.linear(x))


class Model(nn.Module):  # type: ignore[misc]
    """Two blocks and an embedding that is tied to the output layer, and a tensor under its own name."""

    def __init__(self, width: int = 256, words: int = 2048) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, width)
        self.blocks = torch.nn.ModuleList([Block(width), Block(width)])
        self.head = torch.nn.Linear(width, words, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale


def trained(seed: int = 1) -> Model:
    torch.manual_seed(seed)
    model: Model = Model().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model


def meta() -> Model:
    with torch.device("meta"):
        model: Model = Model().eval()
        return model


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An origin with org/module: ``1`` one file, ``shards`` two, ``both`` with both names of what is tied."""
    base = tmp_path_factory.mktemp("modules")
    state = trained().state_dict()
    single = {name: tensor for name, tensor in state.items() if name != "head.weight"}
    for name in ("1", "both"):
        (base / name).mkdir()
    safetensors_torch.save_file(single, base / "1" / "model.safetensors")
    both = {name: tensor.clone() for name, tensor in state.items()}
    safetensors_torch.save_file(both, base / "both" / "model.safetensors")
    (base / "shards").mkdir()
    names = sorted(single)
    shards = [names[:5], names[5:]]
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        safetensors_torch.save_file({name: single[name] for name in shard}, base / "shards" / file)
        weight_map.update(dict.fromkeys(shard, file))
    import json

    index = {"metadata": {}, "weight_map": weight_map}
    (base / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))

    async def put() -> None:
        async with DirectoryOrigin(base / "origin") as origin:
            for version in ("1", "both", "shards"):
                await publish(origin, base / version, Reference("org/module", version))

    (base / "origin").mkdir()
    asyncio.run(put())
    return base / "origin"


def origin(modules: Path) -> str:
    return f"file://{modules}"


def assert_loaded(model: Model, dtype: Any = torch.float32) -> None:
    expected = trained().state_dict()
    for name, tensor in model.state_dict().items():
        kind = dtype if tensor.is_floating_point() else torch.int64
        assert tensor.dtype == kind, name
        assert torch.equal(tensor, expected[name].to(kind)), name
    assert model.head.weight is model.embedding.weight
    parameters = dict(model.named_parameters())
    assert parameters["blocks.0.linear.weight"].requires_grad
    assert not parameters["blocks.0.linear.bias"].requires_grad


@pytest.mark.parametrize("version", ["1", "shards", "both"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_module_is_overwritten_in_place(modules: Path, version: str, compression: str) -> None:
    """Parameters and buffers take over the version's values where they lie, tied ones by either name."""
    model = trained(2)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    loaded = hotstart.load_into(
        model, f"org/module@{version}", origin=origin(modules), compression=compression
    )
    assert_loaded(model)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert (loaded.version, loaded.missing, loaded.unexpected, loaded.on_meta) == (version, (), (), ())
    assert loaded.report.tensors == len(before) - 1


@pytest.mark.parametrize("version", ["1", "shards", "both"])
@pytest.mark.parametrize("device", [None, "cpu", "host"])
def test_a_meta_module_gets_the_versions_tensors(modules: Path, version: str, device: str | None) -> None:
    """Meta tensors are replaced, ties and gradient settings kept, and what is not saved is named."""
    model = meta()
    where = HostDevice() if device == "host" else device
    loaded = hotstart.load_into(model, f"org/module@{version}", where, origin=origin(modules))
    assert_loaded(model)
    assert loaded.on_meta == ("blocks.0.scratch", "blocks.1.scratch")
    assert isinstance(model.scale, torch.nn.Parameter)
    x = torch.rand(2, 256)
    assert torch.equal(model(x), trained()(x))


def test_the_modules_dtype_is_kept(modules: Path) -> None:
    """What is in place is cast to the module's dtype; what was on the meta device has the version's."""
    model = trained(2).to(torch.bfloat16)
    hotstart.load_into(model, "org/module@1", origin=origin(modules))
    assert_loaded(model, torch.bfloat16)
    half = meta().to(torch.float16)
    hotstart.load_into(half, "org/module@1", origin=origin(modules))
    assert_loaded(half)


def test_a_module_that_is_partly_on_meta(modules: Path) -> None:
    """Each tensor is treated by what it is."""
    model = trained(2)
    model.blocks[1] = meta().blocks[1]
    address = model.scale.data_ptr()
    loaded = hotstart.load_into(model, "org/module@1", origin=origin(modules))
    assert_loaded(model)
    assert model.scale.data_ptr() == address
    assert loaded.on_meta == ("blocks.1.scratch",)


def unchanged(model: Model, seed: int = 2) -> bool:
    expected = trained(seed).state_dict()
    return all(
        torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items() if name in expected
    )


def test_all_that_does_not_fit_is_named_and_nothing_is_changed(modules: Path) -> None:
    """Missing, unexpected, misshapen and unfitting tensors are one error, before anything is overwritten."""
    model = trained(2)
    model.extra = torch.nn.Parameter(torch.zeros(2))
    del model.scale
    model.blocks[0].linear.bias = torch.nn.Parameter(torch.zeros(7))
    model.blocks[1].norm.num_batches_tracked = torch.tensor(0.0)
    with pytest.raises(hotstart.ModuleMismatch) as caught:
        hotstart.load_into(model, "org/module@shards", origin=origin(modules))
    error = caught.value
    assert error.missing == ("extra",)
    assert error.unexpected == ("scale",)
    assert error.misfits == (
        "blocks.0.linear.bias has shape (256,) in the version and (7,) in the module",
        "blocks.1.norm.num_batches_tracked is torch.int64 in the version and torch.float32 in the module",
    )
    assert "org/module@shards does not fit Model, which is unchanged\n  it lacks extra" in str(error)
    model.blocks[0].linear.bias = trained(2).blocks[0].linear.bias
    model.blocks[1].norm.num_batches_tracked = torch.tensor(0)
    assert unchanged(model)


def test_what_both_have_is_loaded_if_not_strict(modules: Path) -> None:
    """strict=False loads what is in both, fetches nothing else, and tells the rest; shapes must fit still."""
    model = trained(2)
    model.extra = torch.nn.Parameter(torch.zeros(2))
    del model.embedding, model.head
    loaded = hotstart.load_into(
        model, "org/module@1", origin=origin(modules), strict=False, compression="none", verify="none"
    )
    assert (loaded.missing, loaded.unexpected) == (("extra",), ("embedding.weight",))
    expected = trained().state_dict()
    assert all(
        torch.equal(expected[name], value) for name, value in model.state_dict().items() if name != "extra"
    )
    assert sum(loaded.report.received_bytes.values()) < MEBIBYTE
    model.scale = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(hotstart.ModuleMismatch, match=r"scale has shape \(\) in the version"):
        hotstart.load_into(model, "org/module@1", origin=origin(modules), strict=False)


def test_lazy_parameters_are_named(modules: Path) -> None:
    """A module that has not seen its first input has no shapes yet."""
    model = trained(2)
    model.blocks[0].linear = torch.nn.LazyLinear(256)
    with pytest.raises(hotstart.ModuleMismatch, match=r"blocks\.0\.linear\.weight is not initialized"):
        hotstart.load_into(model, "org/module@1", origin=origin(modules))


def test_what_is_no_module_is_refused(modules: Path) -> None:
    """A state dict is not a module."""
    with pytest.raises(hotstart.InvalidOption, match=r"module='dict': expected a torch\.nn\.Module"):
        hotstart.load_into({}, "org/module@1", origin=origin(modules))


@pytest.mark.parametrize("verify", ["pieces", "full", "none"])
def test_verification_is_as_asked_for(modules: Path, verify: str) -> None:
    """verify means what it means for load, also where some tensors are passed over."""
    model = trained(2)
    del model.scale
    loaded = hotstart.load_into(
        model, "org/module@1", origin=origin(modules), verify=verify, strict=False, compression="none"
    )
    assert loaded.report.verification == verify
    assert torch.equal(model.embedding.weight, trained().embedding.weight)


def test_a_module_from_the_shared_volume(processes: Processes, modules: Path, tmp_path: Path) -> None:
    """From a shared volume no byte is received; a meta module's tensors are views of the mapping."""
    proxy = processes.serve(origin(modules), tmp_path / "store")
    opened = hotstart.open("org/module@shards", proxy=proxy.unix_url, shared_dir=str(proxy.store))
    warm(proxy, opened)
    for model in (trained(2), meta()):
        loaded = opened.load_into(model)
        assert_loaded(model)
        assert loaded.report.representations == ("mapped",)
        assert opened.report is loaded.report


def test_a_damaged_header_on_the_shared_volume(processes: Processes, modules: Path, tmp_path: Path) -> None:
    """A mapped file whose header is none is left for the next source, as by load, and the report says so."""
    proxy = processes.serve(origin(modules), tmp_path / "store")
    opened = hotstart.open("org/module@1", proxy=proxy.unix_url)
    warm(proxy, opened)
    (file,) = opened.selection().files
    volume = tmp_path / "volume"
    copytree(proxy.store, volume, ignore=ignore_patterns("*.sock"))
    blob = volume / "blobs" / file.id[:2] / file.id
    blob.chmod(0o600)
    with blob.open("r+b") as damaged:
        damaged.write(b"\xff" * 8)
    model = meta()
    loaded = hotstart.load_into(model, "org/module@1", proxy=proxy.unix_url, shared_dir=str(volume))
    assert_loaded(model)
    assert "mapped" not in loaded.report.representations
    (failover,) = loaded.report.failovers
    assert "Safetensors header" in failover


@pytest.mark.parametrize("device", ["cpu", "host"])
def test_half_a_load_leaves_whole_tensors(modules: Path, device: str) -> None:
    """When all sources are lost half way, each tensor is old or new, and a second load mends it."""
    version = Version.read(modules, "org/module", "1")
    size = len(version.content["model.safetensors"])
    source = FaultySource(version, "only", SourceKind.UNIX, dies_after=size // 2)
    model = meta()
    where = HostDevice() if device == "host" else device
    with pytest.raises(hotstart.AllSourcesFailed):
        open_with(version, source).load_into(model, where)
    expected = trained().state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.is_meta or torch.equal(tensor, expected[name]), name
    hotstart.load_into(model, "org/module@1", origin=origin(modules))
    assert_loaded(model)


def test_an_open_model_loads_into_several_modules(modules: Path) -> None:
    """Model.load_into may be called again, and from a version that is settled."""
    opened = hotstart.open("org/module@1", origin=origin(modules))
    for model in (meta(), trained(3), meta()):
        assert opened.load_into(model).version == "1"
        assert_loaded(model)


def test_a_source_does_not_run_ahead_of_the_module(modules: Path) -> None:
    """While tensors that are whole wait to be copied, no more than a few requests are begun."""
    tensors = {f"t{number:02}": torch.zeros(MEBIBYTE) for number in range(20)}
    version = rebuilt(
        Version.read(modules, "org/module", "1"), safetensors_torch.save(tensors), header_length=None
    )
    source = FaultySource(version, kind=SourceKind.UNIX)
    taken = 0
    for ready in open_with(version, source).begin(LoadOptions(framework="torch"), most_ahead_bytes=0):
        if not taken:
            # Long enough for all of it to come, were nothing in the way.
            time.sleep(0.5)
        # What is being taken, and four requests of 8 MiB.
        assert source.total <= taken + (4 + 4 * 8) * MEBIBYTE + len(ready.data)
        taken += len(ready.data)
    assert taken == 80 * MEBIBYTE
