"""The one variable by which clients of the Hub come to a proxy, and a home that nothing else has filled."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["use_proxy"]


def use_proxy(url: str, folder: Path) -> None:
    """Set the environment; to be called before a client of the Hub is imported.

    Args:
        url: the proxy's; empty to change nothing.
        folder: for what the client keeps.
    """
    if url:
        os.environ["HF_ENDPOINT"] = f"{url}/hub"
    os.environ["HF_HOME"] = str(folder)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
