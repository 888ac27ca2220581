"""boto3: list, head, and download by its transfer manager, in parts of 8 MiB side by side."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.reporting import report
from tests.clients.s3_environment import BUCKET, prefix_of, use_proxy


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url)
    import boto3

    client = boto3.client("s3")
    client.head_bucket(Bucket=BUCKET)
    prefix = prefix_of(reference)
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=prefix, PaginationConfig={"PageSize": 2}
    )
    files = {}
    for entry in [entry for page in pages for entry in page["Contents"]]:
        name = entry["Key"].removeprefix(prefix)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], str(path))
        assert path.stat().st_size == entry["Size"]
        tail = client.get_object(Bucket=BUCKET, Key=entry["Key"], Range="bytes=-1", IfMatch=entry["ETag"])
        whole = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        assert tail["Body"].read() == whole[-1:]
        files[name] = path.read_bytes()
        assert files[name] == whole
    report("boto3", boto3.__version__, files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
