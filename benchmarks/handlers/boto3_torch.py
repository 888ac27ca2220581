"""A handler as many are: imports, then a download from S3, then ``torch.load``, one after the other."""

from __future__ import annotations

import json
import os
import sys
import time

STAMPS = {"started": time.monotonic()}

import boto3  # noqa: E402
import torch  # noqa: E402
from botocore.config import Config  # noqa: E402

from benchmarks.handlers.encoder import similarity  # noqa: E402

STAMPS["imported"] = time.monotonic()


def main() -> None:
    """Download, load, infer once, and print when each was done."""
    bucket, key, path = sys.argv[1:]
    client = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    client.download_file(bucket, key, path)
    downloaded = time.monotonic()
    weights = torch.load(path, weights_only=True)
    STAMPS["weights"] = time.monotonic()
    found = similarity(weights)
    STAMPS["inferred"] = time.monotonic()
    facts = {"load_seconds": STAMPS["weights"] - STAMPS["imported"], "similarity": found}
    facts["download_seconds"] = downloaded - STAMPS["imported"]
    print(json.dumps({**STAMPS, **facts}), flush=True)
    # Not the interpreter's end, which is not measured.
    os._exit(0)


main()
