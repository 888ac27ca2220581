"""Reading tensors one by one, lazily by range: the interface of ``safetensors.safe_open``.

What is checked is fetched in whole pieces. So that small neighbours do not cost a piece each time, the latest
few are kept.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, TypeAlias

from hotstart.engine.planning import Compression, InvalidOption, Verification
from hotstart.engine.targets import choose_twin
from hotstart.engine.transfer import Transfer
from hotstart.engine.weights import WeightsTarget
from hotstart.errors import InvalidSlice, TensorNotFound, Unreadable
from hotstart.frameworks.choice import Framework, find_framework
from hotstart.loading import LoadOptions, parse_mapped_header
from hotstart.model import Model, open_model
from hotstart.wire.dtypes import BITS
from hotstart.wire.manifest import File
from hotstart.wire.pieces import piece_range, pieces_of
from hotstart.wire.ranges import ByteRange
from hotstart.wire.safetensors import Header, TensorInfo

__all__ = ["SafeOpen", "TensorSlice", "is_path", "load_file"]

# 32 MiB: as much as the tensors of a layer's norms and biases lie apart, within what a load may use.
_KEPT_PIECES = 8
# A tensor that spans more pieces is received into memory of its own.
_LARGEST_BY_PIECES = 2

Index: TypeAlias = int | slice | EllipsisType


def is_path(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name means a local file: a Path, or text that is no reference to a file or version.

    ``model.safetensors`` and ``./runs@3/model.safetensors`` are paths; ``org/bert``, ``org/bert@7`` and
    ``org/bert@7/model.safetensors`` are references.
    """
    if not isinstance(name, str):
        return True
    if name.startswith(("/", "./", "../", "~")) or "\\" in name:
        return True
    return name.endswith(".safetensors") and "@" not in name


class SafeOpen:
    """Weights whose tensors are read when they are asked for. A context manager; safe from several threads.

    Args:
        name: a reference, the path of a local file (see ``is_path``), or a ``Model`` that is open.
        framework: ``numpy`` or ``np``, ``torch`` or ``pt``.
        device: ``cpu``.
        sources: ``proxy``, ``origin`` and so on, as ``hotstart.open`` takes them.

    Raises:
        HotstartError: as ``hotstart.open`` and ``Model.load``.
    """

    def __init__(
        self,
        name: str | os.PathLike[str] | Model,
        framework: str = "numpy",
        device: object = "cpu",
        **sources: str | None,
    ) -> None:
        if str(device) != "cpu":
            raise InvalidOption("device", device, "'cpu', or a load of the reference, which takes any device")
        self._framework: Framework = find_framework(framework)
        self._weights: _LocalWeights | _RemoteWeights
        if isinstance(name, Model):
            self._weights = _RemoteWeights(name)
        elif is_path(name):
            self._weights = _LocalWeights(Path(name).expanduser())
        else:
            self._weights = _RemoteWeights(open_model(str(name), **sources))

    def __enter__(self) -> SafeOpen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections; tensors that were read stay. What is read afterwards opens them again."""
        self._weights.close()

    def __contains__(self, name: object) -> bool:
        return name in self._weights.shards

    def keys(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._weights.shards)

    def offset_keys(self) -> list[str]:
        """Return the names of all tensors in the order of their files and offsets."""
        return [name for path in self._weights.paths for name in self._weights.header(path).tensors]

    def metadata(self) -> dict[str, str] | None:
        """Return the strings that the writer put into the header, of all shards; None if there are none."""
        found: dict[str, str] = {}
        for path in self._weights.paths:
            found.update(self._weights.header(path).metadata)
        return found or None

    def get_tensor(self, name: str) -> Any:
        """Return one tensor.

        Raises:
            TensorNotFound: there is none of this name.
        """
        return self._make(*self._find(name))

    def get_tensors(self, names: Sequence[str]) -> dict[str, Any]:
        """Return several tensors by name (errors as get_tensor)."""
        return {name: self.get_tensor(name) for name in names}

    def get_slice(self, name: str) -> TensorSlice:
        """Return a tensor that is read when it is indexed, and as far as it is (errors as get_tensor)."""
        path, info = self._find(name)
        return TensorSlice(info, lambda part: self._make(path, part))

    def _find(self, name: str) -> tuple[str, TensorInfo]:
        path = self._weights.shards.get(name)
        if path is None:
            raise TensorNotFound(self._weights.name, name, list(self._weights.shards))
        return path, self._weights.header(path).tensors[name]

    def _make(self, path: str, info: TensorInfo) -> Any:
        self._framework.check([info])
        data = self._weights.read(path, info) if info.stop > info.start else memoryview(b"")
        return self._framework.tensor(info, data)


class TensorSlice:
    """A tensor to be indexed by integers, slices and ``...``; reads the rows that the first of them name."""

    def __init__(self, info: TensorInfo, read: Callable[[TensorInfo], Any]) -> None:
        self._info = info
        self._read = read

    def get_shape(self) -> list[int]:
        """Return the elements by axis."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Return the dtype as Safetensors calls it: ``F32``."""
        return self._info.dtype

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Any:
        """Return part of the tensor, as the framework would index the whole.

        Raises:
            InvalidSlice: out of bounds, more indices than axes, a step below 1, or another kind of index.
        """
        wanted = _expand(self._info, index)
        part, rest = _narrow(self._info, wanted)
        found = self._read(part)
        return found[rest] if rest else found


def _expand(info: TensorInfo, index: object) -> list[int | slice]:
    """Return one index an axis, all checked, integers from 0."""
    given = list(index) if isinstance(index, tuple) else [index]
    for item in given:
        if isinstance(item, bool) or not isinstance(item, int | slice | EllipsisType):
            raise InvalidSlice(info.name, index, "expected integers, slices and ...")
    dots = [position for position, item in enumerate(given) if item is Ellipsis]
    if len(dots) > 1:
        raise InvalidSlice(info.name, index, "at most one ...")
    free = len(info.shape) - len(given) + len(dots)
    if free < 0:
        raise InvalidSlice(info.name, index, f"the tensor has {len(info.shape)} axes")
    at = dots[0] if dots else len(given)
    whole: list[Any] = [*given[:at], *[slice(None)] * free, *given[at + len(dots) :]]
    return [_check_axis(info, index, item, size) for item, size in zip(whole, info.shape, strict=True)]


def _check_axis(info: TensorInfo, index: object, item: int | slice, size: int) -> int | slice:
    if isinstance(item, slice):
        if item.step is not None and item.step < 1:
            raise InvalidSlice(info.name, index, "a step must be at least 1")
        return slice(*item.indices(size))
    if not -size <= item < size:
        raise InvalidSlice(info.name, index, f"{item} is out of bounds of an axis of {size}")
    return item % size


def _narrow(info: TensorInfo, wanted: list[int | slice]) -> tuple[TensorInfo, tuple[int | slice, ...]]:
    """Return the contiguous part of a tensor that holds what is wanted, and how to index that part.

    Leading integers, and the first slice after them, name a run of bytes. Elements below a byte are packed,
    and are read whole.
    """
    bits = BITS[info.dtype]
    if bits % 8 or info.start == info.stop:
        return info, tuple(wanted)
    start, shape = info.start, info.shape
    axis = 0
    while axis < len(wanted):
        item = wanted[axis]
        row_bytes = math.prod(shape[1:]) * bits // 8
        if isinstance(item, slice):
            first, stop, step = item.indices(shape[0])
            rows = max(0, stop - first)
            begin, end = start + first * row_bytes, start + (first + rows) * row_bytes
            part = TensorInfo(info.name, info.dtype, (rows, *shape[1:]), begin, end)
            return part, (slice(None, None, step), *wanted[axis + 1 :])
        start += item * row_bytes
        shape = shape[1:]
        axis += 1
    return TensorInfo(info.name, info.dtype, shape, start, start + math.prod(shape) * bits // 8), ()


class _LocalWeights:
    """A local file, mapped; tensors are private views of it."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._view = _map(path)
        self._header = parse_mapped_header(self._view)
        self.paths = [self.name]
        self.shards = dict.fromkeys(self._header.tensors, self.name)

    def header(self, path: str) -> Header:
        return self._header

    def read(self, path: str, info: TensorInfo) -> memoryview:
        start = self._header.data_start
        return self._view[start + info.start : start + info.stop]

    def close(self) -> None:
        pass


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped; the header's parser says what is wrong with it.
            return memoryview(
                mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray()
            )
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from error


class _RemoteWeights:
    """What a reference means, read by range through one transfer that stays."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name = self._model.reference
        selection = self._model.selection()
        self._files: dict[str, File] = {file.path: file for file in selection.files}
        self._selection = selection
        self.paths = list(self._files)
        self._headers: dict[str, Header] = {}
        self._mapped: dict[str, memoryview] = {}
        self._pieces: OrderedDict[tuple[str, int], memoryview] = OrderedDict()
        # Held while something is read: a transfer hands out what was asked for, in turn.
        self._lock = threading.RLock()
        self._transfer: Transfer | None = None
        shards = selection.tensor_shards
        if shards is None:
            (path,) = self.paths
            shards = dict.fromkeys(self.header(path).tensors, path)
        self.shards = dict(shards)

    def header(self, path: str) -> Header:
        with self._lock:
            header = self._headers.get(path)
            if header is None:
                header = self._read_header(self._files[path])
                self._selection.check_shard(path, header.tensors)
                self._headers[path] = header
            return header

    def read(self, path: str, info: TensorInfo) -> memoryview:
        """Return the bytes of a tensor or a part of one."""
        with self._lock:
            header = self.header(path)
            place = ByteRange(header.data_start + info.start, header.data_start + info.stop)
            mapped = self._mapped.get(path)
            if mapped is not None:
                return mapped[place.start : place.stop]
            pieces = pieces_of(place)
            if len(pieces) > _LARGEST_BY_PIECES or not self._checks(self._files[path]):
                return self._receive(path, info)
            # A copy, since what is kept belongs to nobody.
            data = memoryview(bytearray(len(place)))
            for piece in pieces:
                begin, kept = self._piece(path, piece)
                part = ByteRange(begin, begin + len(kept)).intersection(place)
                data[part.start - place.start : part.stop - place.start] = kept[
                    part.start - begin : part.stop - begin
                ]
            return data

    def close(self) -> None:
        with self._lock:
            transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.abort()

    def _piece(self, path: str, piece: int) -> tuple[int, memoryview]:
        """Return where the tensor bytes of a piece begin in the file, and these bytes."""
        data_start = self._headers[path].data_start
        whole = piece_range(piece, self._files[path].size)
        begin = max(whole.start, data_start)
        kept = self._pieces.get((path, piece))
        if kept is None:
            part = TensorInfo(
                f"piece {piece}", "U8", (whole.stop - begin,), begin - data_start, whole.stop - data_start
            )
            kept = self._receive(path, part)
            self._pieces[path, piece] = kept
            if len(self._pieces) > _KEPT_PIECES:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end((path, piece))
        return begin, kept

    def _checks(self, file: File) -> bool:
        source = self._model.sources.current(file.identity())
        return file.pieces is not None and Verification.AUTO.checks_pieces(source.kind)

    def _read_header(self, file: File) -> Header:
        found = self._model.sources.map(file.identity())
        if found is not None:
            _, mapped = found
            self._mapped[file.path] = mapped.view
            mapped.close()
            return parse_mapped_header(self._mapped[file.path])
        target = self._target(file, lambda header: ())
        self._receiver().receive(target)
        return target.header

    def _receive(self, path: str, info: TensorInfo) -> memoryview:
        target = self._target(self._files[path], lambda header: (info,), self._headers[path])
        (ready,) = self._receiver().receive(target)
        return ready.data

    def _receiver(self) -> Transfer:
        if self._transfer is None or self._transfer.is_over:
            doing = f"reading {self.name}"
            self._transfer = Transfer(doing, self._model.sources, Verification.AUTO, stays=True)
        return self._transfer

    def _target(
        self, file: File, choose: Callable[[Header], Sequence[TensorInfo]], header: Header | None = None
    ) -> WeightsTarget:
        source = self._model.sources.current(file.identity())
        return WeightsTarget(
            file,
            choose,
            self._receiver().deliver,
            whole=False,
            checked=Verification.AUTO.checks_pieces(source.kind),
            twin=choose_twin(file, source, Compression.AUTO),
            header=header,
        )


def load_file(
    name: str | os.PathLike[str], device: object = "cpu", *, framework: str = "numpy", **sources: str | None
) -> dict[str, Any]:
    """Load all tensors of a local file or of what a reference means, as safetensors' ``load_file`` does.

    Args:
        name: a path or a reference (see ``is_path``).
        device: ``cpu``; of a reference also what ``Model.load`` takes.
        framework: ``numpy`` or ``torch``.
        sources: ``proxy``, ``origin`` and so on, as ``hotstart.open`` takes them.

    Raises:
        Unreadable, FormatError: of a local file.
        HotstartError: as ``hotstart.open`` and ``Model.load``.
    """
    if is_path(name):
        with SafeOpen(name, framework, device) as weights:
            return weights.get_tensors(weights.offset_keys())
    options = LoadOptions(framework=framework, device=device)
    return dict(open_model(str(name), **sources).begin(options).finish())
