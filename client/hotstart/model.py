"""A model, opened: one version, of which weights, tokenizer and everything else are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotstart.engine.planning import Verification
from hotstart.engine.targets import WholeTarget
from hotstart.engine.transfer import Transfer
from hotstart.errors import FileNotInVersion
from hotstart.loading import Loading, LoadOptions, Tensors
from hotstart.report import Report
from hotstart.sources.chain import Chain, open_reference
from hotstart.sources.environment import Environment
from hotstart.wire.manifest import File, Manifest
from hotstart.wire.references import parse_reference
from hotstart.wire.selection import Selection, select_weights

if TYPE_CHECKING:
    from hotstart.modules import LoadedModule
    from hotstart.sources.chain import Opened

__all__ = ["Model", "open_model"]


def open_model(
    reference: str,
    *,
    proxy: str | None = None,
    token: str | None = None,
    shared_dir: str | None = None,
    origin: str | None = None,
    fallback: str | None = None,
    tier: str | None = None,
) -> Model:
    """Resolve a reference, once.

    Each argument stands for the ``HOTSTART_…`` variable of its name; None means that variable, an empty text
    none at all.

    Args:
        reference: ``org/bert``, ``org/bert@7``, ``org/bert@prod``, or with a file of it,
            ``org/bert@7/unet/model.safetensors``.
        proxy: ``http://host:8470`` or ``unix:/run/hotstart.sock``.
        token: for the proxy.
        shared_dir: a read-only mount of the proxy's store.
        origin: ``s3://bucket/prefix`` or ``file:///path``, read where there is no proxy or it is lost.
        fallback: URL or path of a fallback manifest.
        tier: ``premium``, ``standard`` or ``batch``: who goes first at the proxy.

    Raises:
        InvalidReference: reference breaks the grammar.
        InvalidEnvironment: the sources are not configured, or wrongly; lists everything.
        AllSourcesFailed: no source knows the version; lists each and why.
    """
    parsed = parse_reference(reference)
    environment = Environment.from_environ(
        os.environ,
        proxy=proxy,
        token=token,
        shared_dir=shared_dir,
        origin=origin,
        fallback=fallback,
        tier=tier,
    )
    return Model(open_reference(parsed, environment))


class Model:
    """One version of a model. Made by ``hotstart.open``; every method speaks of the same version.

    May be used from several threads, and in a process that was forked after it was opened.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._selection: Selection | None = None
        self._report: Report | None = None

    def __repr__(self) -> str:
        return f"<Model {self.reference} from {self._opened.opened_by}>"

    @property
    def reference(self) -> str:
        """The reference with the version that it means: ``org/bert@7``."""
        return str(self._opened.reference)

    @property
    def model(self) -> str:
        """The model's name: ``org/bert``."""
        return self.manifest.model

    @property
    def version(self) -> str:
        """The version: ``7``."""
        return self.manifest.version

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        return self._opened.opening.manifest

    @property
    def files(self) -> tuple[File, ...]:
        """All files of the version, by rising path."""
        return self.manifest.files

    @property
    def opened(self) -> Opened:
        """What opening found."""
        return self._opened

    @property
    def sources(self) -> Chain:
        """The chain of sources that the version's bytes come from."""
        return self._opened.sources

    @property
    def report(self) -> Report:
        """The time line of the latest load, or of opening alone before the first."""
        if self._report is not None:
            return self._report
        return Report(
            reference=self.reference,
            version=self.version,
            opened_by=self._opened.opened_by,
            connect_seconds=self._opened.connect_seconds,
            open_seconds=self._opened.open_seconds,
            first_byte_seconds=None,
            first_tensor_seconds=None,
            last_tensor_seconds=0.0,
            tensors=0,
            tensor_bytes=0,
            received_bytes={},
            representations=(),
            compression="",
            verification="none",
            retries=(),
            failovers=tuple(str(error) for error in self._opened.sources.failures()),
        )

    def load(
        self,
        framework: str = "numpy",
        device: object = "cpu",
        *,
        verify: str | None = None,
        compression: str = "auto",
        tensors: Sequence[str] | None = None,
        raw: bool = False,
        dtype: object = None,
    ) -> Tensors:
        """Load tensors straight into their final memory.

        Interrupted, it stops its threads, closes its connections and raises.

        Args:
            framework: ``numpy`` or ``torch``.
            device: ``cpu``; with torch also ``pinned`` (host memory that a GPU reads directly), ``cuda``,
                ``cuda:0``.
            verify: ``pieces`` compares the crc32 of every 4 MiB, ``full`` the sha256 of every file as well,
                ``none`` nothing but the checksums of compressed frames. None is ``pieces`` for what comes
                over TCP or from the origin, and ``none`` for what comes from this host.
            compression: ``zstd`` or ``planes`` asks for that twin where there is one, ``none`` never does;
                ``auto`` measures link and decoding, and picks what is there first (``report.compression``).
            tensors: names of those that are wanted; None for all.
            raw: give every tensor as uint8 with one axis.
            dtype: that floating tensors of 16 bits or more are cast to, on the device: ``torch.bfloat16`` or
                its name. None leaves all as they are. Only with torch.

        Returns:
            A dict of tensors by name, with ``.version`` and ``.report``.

        Raises:
            WeightsNotFound: the version holds no weights, or leaves open which.
            AllSourcesFailed: no source gave the bytes; lists each and why.
            IntegrityError: no source gave the bytes that were published.
            DeviceFailed: the GPU's memory is full, or a call to it failed.
            InvalidOption, MissingPackage, UnsupportedDtype, TensorNotFound, CannotVerify, FormatError
        """
        options = LoadOptions(
            framework=framework,
            device=device,
            verify=verify,
            compression=compression,
            tensors=tensors,
            raw=raw,
            dtype=dtype,
        )
        loading = self.begin(options)
        found = loading.finish()
        self._report = found.report
        return found

    def stream(
        self,
        framework: str = "numpy",
        device: object = "cpu",
        *,
        verify: str | None = None,
        compression: str = "auto",
        tensors: Sequence[str] | None = None,
        raw: bool = False,
        dtype: object = None,
    ) -> Iterator[tuple[str, Any]]:
        """Load as ``load`` does, and yield names and tensors in the order in which they become whole.

        Nothing is fetched before the first is asked for; closing the iterator stops the rest.
        """
        options = LoadOptions(
            framework=framework,
            device=device,
            verify=verify,
            compression=compression,
            tensors=tensors,
            raw=raw,
            dtype=dtype,
        )
        return self._stream(options)

    def _stream(self, options: LoadOptions) -> Iterator[tuple[str, Any]]:
        loading = self.begin(options)
        try:
            for ready in loading:
                yield ready.info.name, loading.tensor(ready)
            self._report = loading.report()
        finally:
            loading.abort()

    def load_into(
        self,
        module: Any,
        device: object = None,
        *,
        strict: bool = True,
        verify: str | None = None,
        compression: str = "auto",
    ) -> LoadedModule:
        """Load tensors into the parameters and buffers of a ``torch.nn.Module``, by their names.

        What the module holds is overwritten where it lies, and keeps its dtype, device and gradient setting.
        What is on the meta device is replaced by a tensor of the version, with the version's dtype.
        A tensor that is in the module under several names is loaded once, from the first of them that the
        version has, and is tied afterwards as before. Values are cast between floats of 16 bits or more, and
        between integers.

        Names, shapes and dtypes are compared before anything is changed, which takes a request for the
        headers more. A failure after that leaves a module of which some tensors are loaded, whole each, and
        the others are as they were; loading again puts it right.

        Args:
            module: with whatever tensors, initialized, on the meta device, or some of each.
            device: where meta tensors are to be, as for ``load``; None is where the module's others are, on
                a GPU or in host memory.
            strict: every name must be in both; else what both have is loaded.
            verify: see ``load``.
            compression: see ``load``.

        Raises:
            ModuleMismatch: names are missing or unexpected, or shapes or dtypes do not fit; lists all of it.
            HotstartError: as ``load``.
        """
        from hotstart.modules import load_module

        loaded = load_module(self, module, device, strict=strict, verify=verify, compression=compression)
        self._report = loaded.report
        return loaded

    def begin(self, options: LoadOptions, *, most_ahead_bytes: int | None = None) -> Loading:
        """Begin to load in threads and return at once; the caller finishes or aborts it.

        Args:
            options: what to load, and how.
            most_ahead_bytes: of tensors in host memory that the caller has not taken yet, from where on
                nothing more is asked for; None for any number.
        """
        loading = Loading(self._opened, self.selection(), options, most_ahead_bytes)
        try:
            loading.start()
        except BaseException:
            loading.abort()
            raise
        return loading

    def selection(self) -> Selection:
        """Return the Safetensors files that the reference means (errors as ``select_weights``)."""
        if self._selection is None:
            self._selection = select_weights(self.manifest, self._opened.reference.file, self.read)
        return self._selection

    def read(self, path: str) -> bytes:
        """Return one file of the version whole, checked: a tokenizer, a configuration.

        It is of the version that the weights are of, whatever an alias means by now.

        Raises:
            FileNotInVersion: there is no such file.
            AllSourcesFailed, IntegrityError
        """
        file = self.manifest.file(path)
        if file is None:
            raise FileNotInVersion(self.reference, path, [file.path for file in self.files])
        target = WholeTarget(file)
        doing = f"reading {path} of {self.reference}"
        transfer = Transfer(doing, self._opened.sources, Verification.AUTO)
        try:
            transfer.start([target])
            transfer.wait()
        except BaseException:
            transfer.abort()
            raise
        return bytes(target.data)

    def download(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Put all files of the version into a folder, subfolders kept, and return it.

        Files that are there and are the right bytes are left alone; each other appears whole or not at all.
        What the shared volume holds is linked rather than copied.

        Args:
            folder: where; created. None is ``~/.cache/hotstart/org/bert/7`` (under ``XDG_CACHE_HOME`` if
            set).

        Raises:
            DownloadFailed: the folder cannot be written.
            AllSourcesFailed, IntegrityError
        """
        from hotstart.downloads import Download

        return Download(self._opened, folder, owner=self).run()
