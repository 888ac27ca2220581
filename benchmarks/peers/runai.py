"""The Run:ai model streamer, from S3: tensors that own their memory, as many threads as it likes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("RUNAI_STREAMER_LOG_LEVEL", "ERROR")

from runai_model_streamer import SafetensorsStreamer

from benchmarks.peers.measuring import serve


def load(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stream all tensors."""
    os.environ.update(
        AWS_ENDPOINT_URL=request["endpoint"],
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING="0",
    )
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(f"s3://{request['bucket']}/{request['key']}")
        return dict(streamer.get_tensors())


if __name__ == "__main__":
    serve(load, "runai-model-streamer", "torch")
