"""Takes snapshots of a model until a file appears, and checks that each is of one version.

``snapshots.py URL MODEL REVISION FOLDER STOP_FILE``; prints how many of which version it took.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from tests.clients.hub_environment import use_proxy


def main(url: str, model: str, revision: str, folder: Path, stop: Path) -> None:
    use_proxy(url, folder / "home")
    from huggingface_hub import snapshot_download

    seen: Counter[str] = Counter()
    while not stop.exists() or not seen:
        snapshot = Path(snapshot_download(model, revision=revision, cache_dir=folder / "cache"))
        files = [path for path in sorted(snapshot.rglob("*")) if path.is_file()]
        versions = {path.read_text().splitlines()[0].rpartition(" ")[2] for path in files}
        assert len(versions) == 1, f"{snapshot} has files of versions {sorted(versions)}"
        seen[f"{versions.pop()} of {len(files)} files"] += 1
        # What is there is not asked for again, and the next round must ask.
        shutil.rmtree(folder / "cache")
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
