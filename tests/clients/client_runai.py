"""Run:ai's model streamer: tensors of a Safetensors file, read by AWS's C++ client in parts side by side."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

from tests.clients.reporting import report
from tests.clients.s3_environment import BUCKET, prefix_of, use_proxy

FILE = "model.safetensors"


def main(url: str, reference: str) -> None:
    use_proxy(url)
    os.environ["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] = "0"
    os.environ["RUNAI_STREAMER_S3_ENDPOINT"] = os.environ["AWS_ENDPOINT_URL"]
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(f"s3://{BUCKET}/{prefix_of(reference)}{FILE}", None, "cpu")
        tensors = {
            name: tensor.contiguous().flatten().view(-1).numpy().tobytes()
            for name, tensor in streamer.get_tensors()
        }
    report("runai-model-streamer", version("runai-model-streamer"), tensors)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
