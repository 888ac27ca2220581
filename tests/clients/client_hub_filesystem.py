"""huggingface_hub as a file system: ``HfFileSystem`` lists, reads whole files, and seeks in one."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.hub_environment import use_proxy
from tests.clients.reporting import report


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url, folder)
    from huggingface_hub import HfFileSystem, __version__

    filesystem = HfFileSystem()
    files = {}
    for path, entry in filesystem.find(reference, detail=True).items():
        data = filesystem.cat_file(path)
        assert entry["size"] == len(data) == filesystem.info(path, expand_info=True)["size"]
        with filesystem.open(path, "rb", block_size=64 * 1024) as file:
            file.seek(len(data) // 3)
            assert file.read(1000) == data[len(data) // 3 :][:1000]
        files[path.removeprefix(f"{reference}/")] = data
    assert not filesystem.exists(f"{reference}/no such file")
    report("HfFileSystem", __version__, files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
