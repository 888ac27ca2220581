"""Recorded: see the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

_LOADERS: dict[str, type[BaseModelLoader]] = {}


def register_model_loader(load_format: str) -> Callable[[type[BaseModelLoader]], type[BaseModelLoader]]:
    """Take a loader for a load format."""

    def wrapper(loader: type[BaseModelLoader]) -> type[BaseModelLoader]:
        if not issubclass(loader, BaseModelLoader):
            raise ValueError("not a BaseModelLoader")  # noqa: TRY004 - as vLLM does
        _LOADERS[load_format] = loader
        return loader

    return wrapper


def get_model_loader(load_config: Any) -> BaseModelLoader:
    """Return a loader of a load format."""
    return _LOADERS[load_config.load_format](load_config)
