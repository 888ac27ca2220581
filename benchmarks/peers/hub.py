"""huggingface_hub and the safetensors library: a download into an empty cache, then ``load_file``.

The Hub is nginx with a folder in the Hub's layout (``org/name/resolve/REVISION/FILE``) and the one header
that the client asks for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")

import safetensors.torch
from huggingface_hub import hf_hub_download

from benchmarks.peers.measuring import serve


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Download and load; the cache is removed by whoever gave the scratch folder."""
    path = hf_hub_download(
        request["hub_repository"],
        request["hub_file"],
        endpoint=request["endpoint"],
        cache_dir=tempfile.mkdtemp(dir=request["scratch"]),
        token=False,
    )
    tensors: Mapping[str, Any] = safetensors.torch.load_file(path)
    return tensors


if __name__ == "__main__":
    serve(load, "huggingface_hub", "safetensors", "torch")
