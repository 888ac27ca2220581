"""Loading into a torch module: parameters and buffers by name, in place, or in the place of meta tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotstart.buffers import discard
from hotstart.engine.planning import Compression, InvalidOption, Verification
from hotstart.engine.targets import choose_twin
from hotstart.engine.transfer import Transfer
from hotstart.engine.weights import WeightsTarget
from hotstart.errors import ModuleMismatch
from hotstart.frameworks.torch import TorchFramework
from hotstart.loading import LoadOptions, parse_mapped_header
from hotstart.report import Report
from hotstart.sources.base import SourceError
from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File
from hotstart.wire.safetensors import Header, TensorInfo

if TYPE_CHECKING:
    from hotstart.model import Model
    from hotstart.sources.chain import Chain

__all__ = ["LoadedModule", "load_module", "read_infos"]

# Of tensors that are whole and not in the module yet: without a bound, a fast source would bring a second
# copy of the model into memory while the first tensors are copied.
_AHEAD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """What loading into a module did.

    Attributes:
        version: that the tensors are of.
        report: the time line.
        missing: names of the module that the version lacks; empty if strict.
        unexpected: names of the version that the module lacks; empty if strict.
        on_meta: parameters and buffers that are still on the meta device, and must be made before use: what
            is missing, and buffers that are not saved with a module.
    """

    version: str
    report: Report
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    on_meta: tuple[str, ...]


class _Place:
    """One tensor of a module, and everywhere it is: tied weights are in several places.

    Attributes:
        tensor: the parameter or buffer.
        names: all of its names, in the order of the module.
        homes: the modules that hold it, and under which attribute.
    """

    __slots__ = ("homes", "names", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.names: list[str] = []
        self.homes: list[tuple[Any, str]] = []

    def put(self, found: Any) -> bool:
        """Take over the values of a tensor, or all of it in the place of a meta tensor.

        Returns:
            Whether found is not needed any more.
        """
        import torch

        if not self.tensor.is_meta:
            with torch.no_grad():
                self.tensor.copy_(found)
            return True
        if isinstance(self.tensor, torch.nn.Parameter):
            found = torch.nn.Parameter(found, requires_grad=self.tensor.requires_grad)
        for owner, attribute in self.homes:
            setattr(owner, attribute, found)
        return False


def load_module(
    model: Model,
    module: Any,
    device: object = None,
    *,
    strict: bool = True,
    verify: str | None = None,
    compression: str = "auto",
) -> LoadedModule:
    """Load a version into a module: see ``Model.load_into``."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise InvalidOption("module", type(module).__name__, "a torch.nn.Module")
    places = _places(module)
    destination = _destination(places, device)

    def options(tensors: Sequence[str] | None) -> LoadOptions:
        return LoadOptions(
            framework="torch", device=destination, verify=verify, compression=compression, tensors=tensors
        )

    everything = options(None)
    # All headers at first, so that all is compared before anything is changed.
    infos = read_infos(model)
    # Where several names of a tied tensor are in the version, the first is as good as the others.
    chosen = {name: place for place in places if (name := _first(place.names, infos)) is not None}
    known = {name for place in places for name in place.names}
    missing = tuple(place.names[0] for place in places if _first(place.names, infos) is None)
    unexpected = tuple(name for name in infos if name not in known)
    misfits = [misfit for name, place in chosen.items() if (misfit := _misfit(infos[name], place.tensor))]
    if misfits or (strict and (missing or unexpected)):
        listed = (missing, unexpected) if strict else ((), ())
        raise ModuleMismatch(model.reference, type(module).__name__, *listed, tuple(misfits))
    takes_all = len(chosen) == len(infos) or everything.verification is Verification.FULL
    loading = model.begin(everything if takes_all else options(list(chosen)), most_ahead_bytes=_AHEAD_BYTES)
    try:
        for ready in loading:
            if ready.info.name in chosen and chosen[ready.info.name].put(loading.tensor(ready)):
                discard(ready.data)
    finally:
        loading.abort()
    on_meta = tuple(name for name, tensor in _all_tensors(module) if tensor.is_meta)
    return LoadedModule(model.version, loading.report(), missing, unexpected, on_meta)


def _first(names: Sequence[str], infos: Mapping[str, TensorInfo]) -> str | None:
    return next((name for name in names if name in infos), None)


def _places(module: Any) -> list[_Place]:
    """Return the tensors that a module's state is, as ``state_dict`` would list them."""
    places: dict[int, _Place] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        persistent = {
            name: buffer
            for name, buffer in owner._buffers.items()
            if name not in owner._non_persistent_buffers_set
        }
        for attribute, tensor in {**owner._parameters, **persistent}.items():
            if tensor is not None:
                place = places.setdefault(id(tensor), _Place(tensor))
                place.names.append(f"{prefix}.{attribute}" if prefix else attribute)
                place.homes.append((owner, attribute))
    return list(places.values())


def _all_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _destination(places: Sequence[_Place], device: object) -> object:
    """Return where bytes are brought: to where the module is, or where its meta tensors are to be."""
    homes = [place.tensor.device for place in places if not place.tensor.is_meta]
    if device is not None and len(homes) < len(places):
        return device
    # What lies elsewhere still is copied there from host memory.
    return homes[0] if homes and homes[0].type == "cuda" else "cpu"


def _misfit(info: TensorInfo, tensor: Any) -> str | None:
    """Tell what of a tensor does not fit its place, or None where it does."""
    import torch

    if torch.nn.parameter.is_lazy(tensor):
        return f"{info.name} is not initialized in the module"
    dtype, shape = TorchFramework().form(info)
    if shape != tuple(tensor.shape):
        return f"{info.name} has shape {shape} in the version and {tuple(tensor.shape)} in the module"
    if dtype != tensor.dtype and (_kind(dtype) is None or _kind(dtype) != _kind(tensor.dtype)):
        return f"{info.name} is {dtype} in the version and {tensor.dtype} in the module"
    return None


def _kind(dtype: Any) -> str | None:
    """Return within which types values may be cast; None where each means something of its own."""
    if dtype.is_floating_point:
        # Narrower ones are quantized: without their scales they mean nothing.
        return "float" if dtype.itemsize > 1 else None
    return None if dtype.is_complex or str(dtype) == "torch.bool" else "integer"


def read_infos(model: Model) -> dict[str, TensorInfo]:
    """Return what the headers of a version's weights say of each tensor; all headers are read at once.

    Raises:
        WeightsNotFound, ShardMismatch, FormatError, AllSourcesFailed, IntegrityError
    """
    infos: dict[str, TensorInfo] = {}
    targets: list[WeightsTarget] = []
    headers: dict[str, Header] = {}
    selection = model.selection()
    transfer = Transfer(f"reading the headers of {model.reference}", model.sources, Verification.AUTO)
    for file in selection.files:
        header = _mapped_header(model.sources, file)
        if header is None:
            targets.append(_header_target(model, file, transfer))
        else:
            headers[file.path] = header
    transfer.start(targets)
    transfer.wait()
    headers.update({target.file.path: target.header for target in targets})
    for file in selection.files:
        selection.check_shard(file.path, headers[file.path].tensors)
        infos.update(headers[file.path].tensors)
    return infos


def _mapped_header(sources: Chain, file: File) -> Header | None:
    """Return the header of a file that can be mapped; a source that has another file there is given up."""
    found = sources.map(file.identity())
    if found is None:
        return None
    source, mapped = found
    try:
        return parse_mapped_header(mapped.view)
    except FormatError as error:
        damage = SourceError(source.name, f"reading {file.path}", str(error), transient=False)
        sources.give_up(source, damage)
        return None
    finally:
        mapped.close()


def _header_target(model: Model, file: File, transfer: Transfer) -> WeightsTarget:
    source = model.sources.current(file.identity())
    return WeightsTarget(
        file,
        lambda header: (),
        transfer.deliver,
        whole=False,
        checked=Verification.AUTO.checks_pieces(source.kind),
        twin=choose_twin(file, source, Compression.AUTO),
    )
