"""boto3 and the safetensors library: a managed, parallel download into a file, then ``load_file``.

The client is made before the clock runs. ``TransferConfig`` asks for what suits large objects: parts of
16 MiB and ten at once, in threads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import boto3
import safetensors.torch
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from benchmarks.peers.measuring import serve

_PART_BYTES = 16 * 1024 * 1024
_CONCURRENCY = 10
_clients: dict[str, Any] = {}


def client(endpoint: str) -> Any:
    """Return a client of one endpoint, with a connection for every thread."""
    config = Config(
        signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=2 * _CONCURRENCY
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",
        config=config,
    )


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Download and load; the file is removed at once, its pages live as long as the tensors."""
    descriptor, path = tempfile.mkstemp(dir=request["scratch"])
    config = TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        max_concurrency=_CONCURRENCY,
        io_chunksize=1024 * 1024,
    )
    with os.fdopen(descriptor, "wb") as file:
        _clients[request["endpoint"]].download_fileobj(request["bucket"], request["key"], file, Config=config)
    tensors: Mapping[str, Any] = safetensors.torch.load_file(path)
    os.unlink(path)
    return tensors


def prepare(request: Mapping[str, Any]) -> None:
    """Make the client."""
    _clients[request["endpoint"]] = client(request["endpoint"])


if __name__ == "__main__":
    serve(load, "boto3", "safetensors", "torch", prepare=prepare)
