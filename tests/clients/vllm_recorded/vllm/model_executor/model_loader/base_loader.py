"""Recorded: see the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class BaseModelLoader(ABC):
    """What every loader is."""

    def __init__(self, load_config: Any) -> None:
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: Any) -> None:
        """Download a model."""

    @abstractmethod
    def load_weights(self, model: Any, model_config: Any) -> None:
        """Load weights into a model."""
