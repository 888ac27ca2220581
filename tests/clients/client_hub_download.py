"""huggingface_hub file by file: ``hf_hub_download`` of every file that ``list_repo_files`` names."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.hub_environment import use_proxy
from tests.clients.reporting import report, split_reference


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url, folder)
    from huggingface_hub import __version__, hf_hub_download, list_repo_files

    model, revision = split_reference(reference)
    files = {
        name: Path(hf_hub_download(model, name, revision=revision)).read_bytes()
        for name in list_repo_files(model, revision=revision)
    }
    report("hf_hub_download", __version__, files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
