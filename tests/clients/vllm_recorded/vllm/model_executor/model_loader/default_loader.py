"""Recorded: see the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.model_executor.model_loader.base_loader import BaseModelLoader


class DefaultModelLoader(BaseModelLoader):  # type: ignore[misc,unused-ignore]
    """The loader of files."""

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """Yield names and tensors."""
        raise NotImplementedError

    def download_model(self, model_config: Any) -> None:
        """Download a model."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Give the model all tensors, and see that none of its parameters lacks."""
        loaded = model.load_weights(self.get_all_weights(model_config, model))
        self.track_weights_loading(model, loaded)

    def track_weights_loading(self, model: Any, loaded_weights: set[str], quantized: bool = False) -> None:
        """Refuse a model of which parameters were not loaded."""
        missing = {name for name, _ in model.named_parameters()} - loaded_weights
        if missing:
            raise ValueError(f"not initialized: {missing}")
