"""huggingface_hub at once: ``snapshot_download``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.hub_environment import use_proxy
from tests.clients.reporting import files_below, report, split_reference


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url, folder)
    from huggingface_hub import __version__, snapshot_download

    model, revision = split_reference(reference)
    snapshot = Path(snapshot_download(model, revision=revision))
    report("snapshot_download", __version__, files_below(snapshot), commit=snapshot.name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
