"""Listeners of several kinds beside each other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.processes import Processes

from .conftest import Published
from .wire import ask

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"


def test_each_kind_serves_its_own(processes: Processes, published: Published, store: Path) -> None:
    """Beside the data listener S3 and a CDN have listeners of their own, which close and vanish with it."""
    unix = store.parent / "s3.sock"
    command = ["serve", "--origin", published.url, "--store", f"disk:{store}", "--listen", "127.0.0.1:0"]
    process = processes.hotstart(*command, "--s3-listen", f"unix:{unix}", "--cdn", "127.0.0.1:0")
    process.wait_for_output("serves")
    line = process.stdout
    match = re.search(
        r"on http://127\.0\.0\.1:(\d+) \(admin unix:\S+\), for S3 on unix:(\S+), for a CDN on (\S+):(\d+)\n",
        line,
    )
    assert match is not None, line
    data, cdn = int(match[1]), int(match[4])
    assert Path(match[2]) == unix
    assert ask(data, WEIGHTS).status == ask(cdn, WEIGHTS).status == 200
    assert ask(cdn, "/v1/models/org/bert@7").status == 200
    assert ask(cdn, "/healthz/ready").status == 200
    for target in ("/", "/metrics", "/v1/models", "/v1/models/org/bert", "/v1/open/org/bert@7"):
        assert ask(data, target).status == 200
        ask(cdn, target).problem(404, "no-such-route")
    assert ask(unix, WEIGHTS).status == 404
    assert process.terminate().status == 0
    assert not unix.exists()
