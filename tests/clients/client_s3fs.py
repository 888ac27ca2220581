"""s3fs: find, cat, and a file that is read here and there."""

from __future__ import annotations

import sys

from tests.clients.reporting import report
from tests.clients.s3_environment import BUCKET, prefix_of, use_proxy


def main(url: str, reference: str) -> None:
    use_proxy(url)
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    base = f"{BUCKET}/{prefix_of(reference)}"
    assert filesystem.isdir(base)
    assert not filesystem.exists(f"{base}nothing")
    files = {path.removeprefix(base): filesystem.cat_file(path) for path in filesystem.find(base)}
    for name, data in files.items():
        with filesystem.open(base + name, block_size=1024 * 1024, cache_type="readahead") as file:
            file.seek(max(0, len(data) - 5))
            assert file.read() == data[-5:]
    report("s3fs", s3fs.__version__, files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
