"""The loader of vLLM's ``--load-format hotstart``, registered by ``hotstart.vllm``. Imports vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from hotstart.engine.planning import InvalidOption
from hotstart.loading import LoadOptions
from hotstart.model import Model
from hotstart.modules import read_infos
from hotstart.vllm import open_version, prepare

__all__ = ["HotstartModelLoader"]

# Of tensors that are whole and not in the model yet: without a bound, a fast source would bring all of the
# model into host memory while its first tensors are copied to a GPU.
_AHEAD_BYTES = 256 * 1024 * 1024


class HotstartModelLoader(DefaultModelLoader):  # type: ignore[misc,unused-ignore]
    """vLLM's default loader, which fills the model and checks that nothing lacks, with tensors from hotstart.

    Every worker takes whole tensors and cuts its part out, as with files; workers of one host share what the
    shared volume holds.
    """

    def download_model(self, model_config: Any) -> None:
        """Bring what vLLM reads besides the weights; those are never on a disk."""
        prepare(open_version(model_config.model, model_config.revision).reference)

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """Yield names and tensors in host memory, in the order in which they become whole.

        Raises:
            InvalidOption: the model takes what this format cannot bring.
            HotstartError: as ``hotstart.open`` and ``Model.stream``.
        """
        if tuple(getattr(model, "secondary_weights", ())):
            expected = "safetensors: this architecture takes weights of other models as well"
            raise InvalidOption("load_format", self.load_config.load_format, expected)
        if self.load_config.safetensors_load_strategy == "torchao":
            expected = "safetensors: the weights are serialized by torchao"
            raise InvalidOption("load_format", self.load_config.load_format, expected)
        version = open_version(model_config.model_weights or model_config.model, model_config.revision)
        options = LoadOptions(framework="torch", tensors=_wanted(version, model))
        loading = version.begin(options, most_ahead_bytes=_AHEAD_BYTES)
        try:
            for ready in loading:
                yield ready.info.name, loading.tensor(ready)
        finally:
            loading.abort()


def _wanted(version: Model, model: Any) -> list[str] | None:
    """Return the names that the architecture uses, if it tells; None for all."""
    is_unused = getattr(model, "is_unused_checkpoint_weight", None)
    return None if is_unused is None else [name for name in read_infos(version) if not is_unused(name)]
