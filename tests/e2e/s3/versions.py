"""Resolves a reference and fetches that version by boto3 until a file appears; each must be of one version.

``versions.py URL REFERENCE STOP_FILE``; prints how many of which version it took.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from tests.clients.s3_environment import use_proxy


def main(url: str, reference: str, stop: Path) -> None:
    use_proxy(url)
    import boto3

    import hotstart

    client = boto3.client("s3")
    seen: Counter[str] = Counter()
    while not stop.exists() or not seen:
        # As hotstart resolve REF --s3 does it.
        model = hotstart.open(reference, proxy=url, origin="", shared_dir="", fallback="")
        prefix = f"{reference.partition('@')[0]}/{model.version}/"
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="models", Prefix=prefix)["Contents"]]
        texts = [client.get_object(Bucket="models", Key=key)["Body"].read().decode() for key in keys]
        versions = {text.splitlines()[0].rpartition(" ")[2] for text in texts}
        assert versions == {model.version}, (versions, model.version)
        seen[f"{model.version} of {len(texts)} files"] += 1
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
