"""Loading: from an opened version to tensors, mapped where the bytes are on this host, else received."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hotstart.buffers import HostBuffer
from hotstart.devices.base import Device
from hotstart.devices.choice import find_destination
from hotstart.devices.pinned import PinnedMemory, copy_parts
from hotstart.engine.cpus import usable_cpus
from hotstart.engine.picking import PLAIN, Picker, plan_of
from hotstart.engine.planning import Compression, InvalidOption, Verification, item_bytes
from hotstart.engine.targets import TwinPlan
from hotstart.engine.transfer import Transfer
from hotstart.engine.weights import TensorReady, WeightsTarget, check_sha256
from hotstart.errors import CannotVerify, TensorNotFound
from hotstart.frameworks.choice import Framework, find_framework
from hotstart.frameworks.torch import TorchFramework, cast, cast_name, is_cast
from hotstart.report import Report
from hotstart.sources.base import Source, SourceError, SourceKind
from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.manifest import File
from hotstart.wire.pieces import piece_range
from hotstart.wire.safetensors import LENGTH_BYTES, Header, TensorInfo, parse_header, parse_header_length
from hotstart.wire.selection import Selection

if TYPE_CHECKING:
    from hotstart.devices.incoming import Incoming
    from hotstart.devices.staging import Staging
    from hotstart.sources.chain import Opened

__all__ = ["LoadOptions", "Loading", "Tensors", "parse_mapped_header"]


class LoadOptions:
    """What to load and how, checked.

    Raises:
        InvalidOption: a value is none of those that are possible.
        MissingPackage, UnsupportedHost: the framework cannot be used here.
    """

    def __init__(
        self,
        *,
        framework: str = "numpy",
        device: object = "cpu",
        verify: str | None = None,
        compression: str = "auto",
        tensors: Sequence[str] | None = None,
        raw: bool = False,
        dtype: object = None,
    ) -> None:
        self.framework: Framework = find_framework(framework)
        self.destination = find_destination(device, self.framework.name)
        self.verification = Verification.parse(verify)
        self.compression = Compression.parse(compression)
        if isinstance(tensors, str):
            raise InvalidOption("tensors", tensors, "a list of names")
        self.tensors = None if tensors is None else tuple(dict.fromkeys(tensors))
        self.raw = raw
        self.dtype = self._parse_dtype(dtype)
        if self.verification is Verification.FULL and self.tensors is not None:
            raise InvalidOption(
                "verify", "full", "'pieces' together with tensors=…: a sha256 is of a whole file"
            )

    def _parse_dtype(self, dtype: object) -> str | None:
        if dtype is None:
            return None
        if self.framework.name != "torch" or self.raw or isinstance(self.destination, PinnedMemory):
            where = "framework='torch', without raw=True, and a device that is not 'pinned'"
            raise InvalidOption("dtype", dtype, f"None; tensors are cast with {where}")
        return cast_name(dtype)

    def cast(self, info: TensorInfo) -> str | None:
        """Return the name of the dtype that a tensor is cast to, or None where it stays as it is."""
        return self.dtype if is_cast(info) else None


class Tensors(dict[str, Any]):
    """Tensors by name, in the order of their files and offsets.

    Attributes:
        version: that they are of.
        report: the time line of their load.
    """

    def __init__(self, tensors: Mapping[str, Any], version: str, report: Report) -> None:
        super().__init__(tensors)
        self.version = version
        self.report = report


class Loading:
    """One load of one version. It owns its threads: abort it, or iterate to the end."""

    def __init__(
        self,
        opened: Opened,
        selection: Selection,
        options: LoadOptions,
        most_ahead_bytes: int | None = None,
    ) -> None:
        """Prepare; nothing is fetched yet."""
        self._opened = opened
        self._selection = selection
        self._options = options
        self._chain = opened.sources
        self._order: dict[str, Sequence[TensorInfo]] = {}
        self._representations: dict[str, None] = {}
        self._verified: dict[str, None] = {}
        self._checks_pieces = False
        self._is_unverifiable = False
        self._count = 0
        self._bytes = 0
        self._used_before: Mapping[str, int] = {}
        self._staging: Staging | None = None
        self._picker = Picker(options.compression, usable_cpus())
        # What is asked for at first.
        self._form = PLAIN
        doing = f"loading {opened.reference}"
        stays = isinstance(options.destination, Device)
        self._transfer = Transfer(doing, self._chain, options.verification, picker=self._picker, stays=stays)
        self._transfer.most_ahead_bytes = most_ahead_bytes

    def start(self) -> None:
        """Map what can be mapped, and begin to receive the rest in threads.

        Raises:
            TensorNotFound: a tensor was asked for that no file has.
            CannotVerify: digests that the asked verification takes are unknown.
            AllSourcesFailed: there is no source.
        """
        self._used_before = self._chain.used
        files = self._files()
        self._check_verifiable(files)
        if isinstance(self._options.destination, Device):
            self._stage(files, self._options.destination)
            return
        received = [file for file in files if not self._map(file)]
        self._pick(received)
        self._transfer.start([self._target(file) for file in received])

    def __iter__(self) -> Iterator[TensorReady]:
        """Yield tensors as they become whole and good (errors as ``Transfer``'s)."""
        try:
            for ready in self._transfer:
                self._count += 1
                self._bytes += ready.info.stop - ready.info.start
                yield ready
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Stop all threads; idempotent."""
        self._transfer.abort()
        if self._staging is not None:
            self._staging.join()

    def finish(self) -> Tensors:
        """Wait for all tensors and return them.

        Raises:
            UnsupportedDtype: the framework cannot represent one.
            HotstartError: what else went wrong.
        """
        return self.collect(list(self))

    def collect(self, ready: Sequence[TensorReady]) -> Tensors:
        """Make tensors of what was received."""
        made = {(item.path, item.info.name): self.tensor(item) for item in ready}
        tensors = {info.name: made[path, info.name] for path, infos in self._order.items() for info in infos}
        return Tensors(tensors, self._opened.opening.manifest.version, self.report())

    def tensor(self, ready: TensorReady) -> Any:
        """Return the framework's tensor of one that is ready."""
        if ready.staged is not None:
            return ready.staged.take()
        options = self._options
        if isinstance(options.destination, PinnedMemory):
            options.destination.settle()
        if options.raw:
            return options.framework.raw(ready.data)
        tensor = options.framework.tensor(ready.info, ready.data)
        dtype = options.cast(ready.info)
        return tensor if dtype is None else cast(tensor, dtype)

    def report(self) -> Report:
        """Return the time line so far."""
        clock = self._transfer.clock
        used = self._chain.used
        ended = time.perf_counter() if clock.ended is None else clock.ended
        return Report(
            reference=str(self._opened.reference),
            version=self._opened.opening.manifest.version,
            opened_by=self._opened.opened_by,
            connect_seconds=self._opened.connect_seconds,
            open_seconds=self._opened.open_seconds,
            first_byte_seconds=None if clock.first_byte is None else clock.first_byte - clock.started,
            first_tensor_seconds=None if clock.first_tensor is None else clock.first_tensor - clock.started,
            last_tensor_seconds=ended - clock.started,
            tensors=self._count,
            tensor_bytes=self._bytes,
            received_bytes={
                name: size - self._used_before.get(name, 0)
                for name, size in used.items()
                if size > self._used_before.get(name, 0)
            },
            representations=(*self._representations, *self._transfer.forms),
            compression="" if self._picker.choice is None else str(self._picker.choice),
            verification=self._verification_done(),
            retries=tuple(self._transfer.retries),
            failovers=tuple(str(error) for error in self._chain.failures()),
        )

    def _verification_done(self) -> str:
        verified = dict(self._verified)
        if "full" not in verified:
            for form in self._transfer.forms:
                if form != "identity":
                    verified["frames"] = None
                elif self._checks_pieces:
                    verified["pieces"] = None
        text = ", ".join(verified) or "none"
        return f"{text} (adopted: digests unknown)" if self._is_unverifiable else text

    # What is loaded.

    def _files(self) -> list[File]:
        """Return the files that hold the wanted tensors."""
        wanted, shards = self._options.tensors, self._selection.tensor_shards
        if wanted is None or shards is None:
            return list(self._selection.files)
        for name in wanted:
            if name not in shards:
                raise TensorNotFound(str(self._opened.reference), name, list(shards))
        holders = {shards[name] for name in wanted}
        return [file for file in self._selection.files if file.path in holders]

    def _choose(self, file: File, header: Header) -> Sequence[TensorInfo]:
        """Return the wanted tensors of a file, by its header."""
        self._selection.check_shard(file.path, header.tensors)
        infos: Sequence[TensorInfo] = tuple(header.tensors.values())
        wanted, shards = self._options.tensors, self._selection.tensor_shards
        if wanted is not None:
            for name in wanted:
                if shards is None and name not in header.tensors:
                    raise TensorNotFound(str(self._opened.reference), name, list(header.tensors))
            infos = [header.tensors[name] for name in wanted if name in header.tensors]
        if not self._options.raw:
            self._options.framework.check(infos)
        self._order[file.path] = infos
        return infos

    def _check_verifiable(self, files: Sequence[File]) -> None:
        verification = self._options.verification
        for file in files:
            lacks = file.sha256 is None if verification is Verification.FULL else file.pieces is None
            if lacks and verification in (Verification.FULL, Verification.PIECES):
                raise CannotVerify(str(self._opened.reference), file.path, verification)

    # Receiving.

    def _pick(self, files: Sequence[File]) -> None:
        """Pick what to ask for, at first, of files that are to be received."""
        if files:
            self._form = self._picker.begin(files, self._chain.current(files[0].identity()))

    def _target(self, file: File) -> WeightsTarget:
        twin, checked = self._plan(file)
        destination = self._options.destination
        target = WeightsTarget(
            file,
            lambda header: self._choose(file, header),
            self._transfer.deliver,
            whole=self._options.tensors is None,
            checked=checked,
            full=self._options.verification is Verification.FULL,
            twin=twin,
            longest=item_bytes(self._chain.current(file.identity()).kind, file.size),
            allocate=destination.allocate if isinstance(destination, PinnedMemory) else HostBuffer,
        )
        self._picker.watch(target)
        return target

    def _plan(self, file: File) -> tuple[TwinPlan | None, bool]:
        """Return the twin to ask for, and whether pieces are going to be checked; note both."""
        source = self._chain.current(file.identity())
        twin = plan_of(file, self._form)
        if twin is not None and not source.has(twin.representation):
            twin = None
        verification = self._options.verification
        checked = verification.checks_pieces(source.kind)
        if verification is Verification.FULL:
            self._verified["full"] = None
        self._checks_pieces |= checked and file.pieces is not None
        self._is_unverifiable |= checked and twin is None and file.pieces is None
        self._order[file.path] = ()
        return twin, checked

    # Staging.

    def _stage(self, files: Sequence[File], device: Device) -> None:
        """Move all files through the pinned ring of a device."""
        from hotstart.devices.staging import Staging

        mapped = [self._open_mapped(file) for file in files]
        self._pick([file for file, found in zip(files, mapped, strict=True) if found is None])
        incoming = [self._incoming(file, device, found) for file, found in zip(files, mapped, strict=True)]
        self._staging = Staging(device, self._transfer, incoming, self._shape, self._options.cast)
        self._staging.start()

    def _incoming(self, file: File, device: Device, mapped: tuple[memoryview, Header] | None) -> Incoming:
        from hotstart.devices.incoming import Incoming

        twin, checked = (None, False) if mapped is not None else self._plan(file)
        return Incoming(
            file,
            lambda header: self._choose(file, header),
            whole=self._options.tensors is None,
            checked=checked,
            slot_bytes=device.slot_bytes,
            full=self._options.verification is Verification.FULL and mapped is None,
            twin=twin,
            mapped=mapped,
        )

    def _shape(self, info: TensorInfo, flat: Any) -> Any:
        framework = self._options.framework
        assert isinstance(framework, TorchFramework)
        return flat if self._options.raw else framework.shaped(info, flat)

    # Mapping.

    def _map(self, file: File) -> bool:
        """Map a file and deliver its tensors; tell whether that could be done."""
        mapped = self._open_mapped(file)
        if mapped is None:
            return False
        view, header = mapped
        infos = self._choose(file, header)
        parts = [view[header.data_start + info.start : header.data_start + info.stop] for info in infos]
        if isinstance(self._options.destination, PinnedMemory):
            parts = copy_parts(parts, self._options.destination)
        for info, data in zip(infos, parts, strict=True):
            self._transfer.deliver(TensorReady(file.path, info, data))
        return True

    def _open_mapped(self, file: File) -> tuple[memoryview, Header] | None:
        """Map a file and check it; None where that cannot be done."""
        found = self._chain.map(file.identity())
        if found is None:
            return None
        source, mapped = found
        view = mapped.view
        mapped.close()
        try:
            self._verify_mapped(file, view, source)
            header = parse_mapped_header(view)
        except (IntegrityError, FormatError) as error:
            damage = SourceError(source.name, f"reading {file.path}", str(error), transient=False)
            self._chain.give_up(source, damage)
            return None
        self._representations["mapped"] = None
        return view, header

    def _verify_mapped(self, file: File, view: memoryview, source: Source) -> None:
        verification = self._options.verification
        if verification is Verification.FULL:
            assert file.sha256 is not None
            check_sha256(view, file.sha256, file.path)
            self._verified["full"] = None
        elif verification.checks_pieces(source.kind) and file.pieces is not None:
            for piece in range(len(file.pieces.crc32)):
                place = piece_range(piece, file.size)
                file.pieces.check(piece, view[place.start : place.stop], file.path)
            self._verified["pieces"] = None
        elif source.kind is not SourceKind.SHARED:
            self._is_unverifiable = True


def parse_mapped_header(view: memoryview) -> Header:
    """Return the header of a whole Safetensors file in memory.

    Raises:
        FormatError: it is none.
    """
    length = parse_header_length(view[:LENGTH_BYTES])
    return parse_header(view[LENGTH_BYTES : LENGTH_BYTES + length], len(view))
