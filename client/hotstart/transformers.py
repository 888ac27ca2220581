"""transformers' ``from_pretrained`` of a version: ``from_pretrained(AutoModel, "org/bert@prod")``.

transformers itself makes the model, on the meta device, and decides names, dtypes, ties and buffers; hotstart
brings it the tensors, which are received while the model is being made and become its parameters without a
copy. So the result is bit for bit what transformers makes of the same files.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotstart.downloads import Download, default_folder, side_files
from hotstart.frameworks.torch import TorchFramework
from hotstart.loading import Loading, LoadOptions
from hotstart.model import Model, open_model
from hotstart.modules import read_infos
from hotstart.wire.safetensors import TensorInfo

__all__ = ["from_pretrained"]

_CONFIG = "config.json"
_GENERATION_CONFIG = "generation_config.json"


def from_pretrained(
    cls: Any,
    reference: str | Model,
    *args: Any,
    device: object = None,
    verify: str | None = None,
    compression: str = "auto",
    **options: Any,
) -> Any:
    """Return what ``cls.from_pretrained`` makes of a version: a model, configuration, tokenizer or processor.

    Configuration, tokenizer, code and the like come from a folder of the user's cache
    (``~/.cache/hotstart/org/bert/7``), which is downloaded to first; weights never touch a disk.

    Args:
        cls: a class of transformers, or one like them: ``AutoModel``, ``BertModel``, ``AutoTokenizer``.
        reference: as for ``hotstart.open``, or what that returned; that is how several calls get one version.
            A file that it names is the weights, and its folder is looked into first.
        args: for cls.
        device: where the model is to be: None for host memory, else as for ``load``. transformers needs
            accelerate for one that is not None.
        verify: see ``Model.load``.
        compression: see ``Model.load``.
        options: for ``cls.from_pretrained``: ``dtype``, ``num_labels``, ``attn_implementation``.

    Raises:
        HotstartError: as ``hotstart.open`` and ``Model.load``.
    """
    model = reference if isinstance(reference, Model) else open_model(reference)
    if not _is_model(cls):
        place = _folder(model, _download_side_files(model))
        return cls.from_pretrained(str(place), *args, **options)
    destination = "cpu" if device is None else device
    loading = LoadOptions(framework="torch", device=destination, verify=verify, compression=compression)
    arrivals = _Arrivals(model.begin(loading))
    try:
        state = arrivals.state(read_infos(model))
        folder = str(_folder(model, _download_side_files(model)))
        if device is not None:
            options.setdefault("device_map", {"": device})
        made = _make(cls, model, folder, state, args, options)
    except BaseException:
        # transformers wraps what goes wrong with a tensor into an error of its own.
        failure = arrivals.failure
        arrivals.abort()
        if failure is not None:
            raise failure from None
        raise
    arrivals.finish()
    return made


def _is_model(cls: Any) -> bool:
    """Tell models, which have weights, from all else that has a from_pretrained."""
    from torch.nn import Module

    return hasattr(cls, "_model_mapping") or (isinstance(cls, type) and issubclass(cls, Module))


def _make(
    cls: Any,
    model: Model,
    folder: str,
    state: Mapping[str, Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Let transformers make a model of a configuration and tensors, instead of a folder."""
    config, options = _configure(cls, folder, options)
    cls = _model_class(cls, config, folder, options)
    made = cls.from_pretrained(None, *args, config=config, state_dict=state, **options)
    whole = made[0] if isinstance(made, tuple) else made
    whole.config.name_or_path = whole.name_or_path = model.reference
    if options.get("generation_config") is None and whole.can_generate():
        whole.generation_config = _generation_config(folder)
    return made


def _configure(cls: Any, folder: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the configuration, and the options that are not part of it."""
    from transformers import AutoConfig, PretrainedConfig

    config = options.pop("config", None)
    if isinstance(config, PretrainedConfig):
        return config, options
    # These two are the model's, and would end in the configuration.
    kept = {name: options.pop(name) for name in ("dtype", "quantization_config") if name in options}
    config_class = AutoConfig if getattr(cls, "config_class", None) is None else cls.config_class
    config, rest = config_class.from_pretrained(
        folder if config is None else config, return_unused_kwargs=True, **options
    )
    return config, {**rest, **kept}


def _model_class(cls: Any, config: Any, folder: str, options: dict[str, Any]) -> Any:
    """Return the class that an Auto class stands for; a class that is none is itself."""
    if not hasattr(cls, "_model_mapping"):
        return cls
    code = getattr(config, "auto_map", {}).get(cls.__name__)
    if code is not None and options.get("trust_remote_code"):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(code, folder)
    from transformers.models.auto.auto_factory import _get_model_class

    if type(config) not in cls._model_mapping:
        # This says which configurations it knows, and that code of the version must be trusted.
        cls.from_config(config)
    return _get_model_class(config, cls._model_mapping)


def _generation_config(folder: str) -> Any:
    """Return what transformers takes from a folder: the file, or what config.json says of generation."""
    from transformers import GenerationConfig

    if Path(folder, _GENERATION_CONFIG).exists():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_pretrained(folder, config_file_name=_CONFIG, _from_model_config=True)


# Side files.


def _download_side_files(model: Model) -> Path:
    """Bring all that is not weights into the version's folder of the cache."""
    folder = default_folder(model.model, model.version)
    return Download(model.opened, folder, only=side_files(model.files)).run()


def _folder(model: Model, root: Path) -> Path:
    """Return the folder that the reference means: the named one, that of the named file, or the root."""
    named = model.opened.reference.file
    if named is None:
        return root
    if model.manifest.file(named) is None:
        return root.joinpath(*named.split("/"))
    beside = root.joinpath(*named.split("/")).parent
    return beside if (beside / _CONFIG).exists() else root


# Tensors.


class _Arrivals:
    """The tensors of a load that is under way, each taken once. Owns the load, and a thread of its own.

    Attributes:
        failure: what went wrong with the load; None so far.
    """

    def __init__(self, loading: Loading) -> None:
        self.failure: BaseException | None = None
        self._loading = loading
        self._tensors: dict[str, Any] = {}
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._receive, name="hotstart-arrivals", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            for ready in self._loading:
                tensor = self._loading.tensor(ready)
                with self._changed:
                    self._tensors[ready.info.name] = tensor
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised where the tensors are waited for
            self.failure = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def state(self, infos: Mapping[str, TensorInfo]) -> dict[str, _Arriving]:
        """Return what transformers takes for a state dict."""
        return {name: _Arriving(self, info) for name, info in infos.items()}

    def take(self, name: str) -> Any:
        """Wait until a tensor is whole, and hand it over.

        Raises:
            HotstartError: it will not be.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self._tensors or self._is_over)
            if name in self._tensors:
                return self._tensors.pop(name)
        raise self.failure or KeyError(name)

    def finish(self) -> None:
        """Wait until all has arrived, needed or not.

        Raises:
            HotstartError: something did not.
        """
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def abort(self) -> None:
        """Stop the load."""
        self._loading.abort()
        self._thread.join()


class _Arriving:
    """A tensor that is on its way, as transformers handles one that it has not read from its file yet."""

    __slots__ = ("_arrivals", "_info", "_taken")

    def __init__(self, arrivals: _Arrivals, info: TensorInfo) -> None:
        self._arrivals = arrivals
        self._info = info
        self._taken: Any = None

    def __getitem__(self, index: Any) -> Any:
        """Wait for the tensor, and return it, or parts of it."""
        if index is ...:
            # Handed over: where it is cast, the original is freed at once.
            return self._arrivals.take(self._info.name)
        if self._taken is None:
            self._taken = self._arrivals.take(self._info.name)
        return self._taken[index]

    @property
    def dtype(self) -> Any:
        return TorchFramework().form(self._info)[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return TorchFramework().form(self._info)[1]

    def is_floating_point(self) -> bool:
        """Tell floats of whatever width."""
        return bool(self.dtype.is_floating_point)

    def get_dtype(self) -> str:
        """Return the dtype as safetensors writes it."""
        return self._info.dtype

    def get_shape(self) -> list[int]:
        return list(self._info.shape)
