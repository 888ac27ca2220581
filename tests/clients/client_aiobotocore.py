"""aiobotocore: all files at once."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.clients.reporting import report
from tests.clients.s3_environment import BUCKET, prefix_of, use_proxy


async def read(client: Any, key: str) -> bytes:
    answer = await client.get_object(Bucket=BUCKET, Key=key)
    async with answer["Body"] as body:
        data: bytes = await body.read()
    return data


async def main(url: str, reference: str) -> None:
    use_proxy(url)
    import aiobotocore
    from aiobotocore.session import get_session

    prefix = prefix_of(reference)
    async with get_session().create_client("s3") as client:
        listed = await client.list_objects(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for entry in listed["Contents"]]
        bodies = await asyncio.gather(*(read(client, key) for key in keys))
    files = {key.removeprefix(prefix): body for key, body in zip(keys, bodies, strict=True)}
    report("aiobotocore", aiobotocore.__version__, files)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
