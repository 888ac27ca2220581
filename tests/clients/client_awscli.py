"""The AWS command line: ``aws s3 sync``, and ``ls`` before it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.clients.reporting import files_below, report
from tests.clients.s3_environment import BUCKET, prefix_of, use_proxy


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url)
    aws = [sys.executable, "-m", "awscli", "s3"]
    base = f"s3://{BUCKET}/{prefix_of(reference)}"
    # Its own interpreter and folder alone: this package is none of its business.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = subprocess.run(
        [*aws, "ls", "--recursive", base], check=True, capture_output=True, text=True, env=environment
    ).stdout
    subprocess.run([*aws, "sync", "--only-show-errors", base, str(folder)], check=True, env=environment)
    files = files_below(folder)
    assert len(listed.splitlines()) == len(files)
    report("awscli", version("awscli"), files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
