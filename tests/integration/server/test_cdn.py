"""The listener for a CDN: what it may keep, how it is told from others, and that it is never redirected."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart_proxy.server.cdn import SECRET_HEADER
from tests.support.processes import Processes, Proxy, free_port
from tests.support.s3 import S3Server

from .conftest import Published
from .wire import ask

WEIGHTS = "/v1/models/org/bert@7/model.safetensors"
MANIFEST = "/v1/models/org/bert@7"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A file of two secrets."""
    file = tmp_path / "secrets"
    file.write_text("# of the CDN\nold-secret\nnew-secret\n")
    return file


@pytest.fixture
def cdn(processes: Processes, published: Published, store: Path, secrets: Path) -> tuple[Proxy, int]:
    """A proxy whose clients need a token, and the port for its CDN, which needs a secret."""
    tokens = secrets.with_name("tokens")
    tokens.write_text("a-token\n")
    port = free_port()
    options = ("--cdn", f"127.0.0.1:{port}", "--cdn-secret-file", str(secrets), "--token-file", str(tokens))
    return processes.serve(published.url, store, *options), port


def test_only_the_cdn_is_admitted(cdn: tuple[Proxy, int], secrets: Path) -> None:
    """Each secret opens files and manifests, a token does not; probes need none; changes count at once."""
    proxy, port = cdn
    for target in (WEIGHTS, MANIFEST):
        for secret in ("old-secret", "new-secret"):
            assert ask(port, target, {SECRET_HEADER: secret}).status == 200
        wrong: list[dict[str, str]] = [
            {},
            {SECRET_HEADER: "guess"},
            {SECRET_HEADER: ""},
            {SECRET_HEADER: "guess\r\n" + SECRET_HEADER + ": new-secret"},
            {"Authorization": "Bearer a-token"},
            {"Authorization": "Bearer new-secret"},
        ]
        for headers in wrong:
            answer = ask(port, target, headers)
            answer.problem(403, "not-the-cdn")
            assert answer.headers["cache-control"] == "no-store"
    assert ask(port, "/healthz/live").status == ask(port, "/healthz/ready").status == 200
    ask(proxy.port, WEIGHTS, {SECRET_HEADER: "new-secret"}).problem(401, "unauthorized")
    secrets.write_text("newest-secret\n")
    ask(port, WEIGHTS, {SECRET_HEADER: "new-secret"}).problem(403, "not-the-cdn")
    assert ask(port, WEIGHTS, {SECRET_HEADER: "newest-secret"}).status == 200
    printed = proxy.process.stdout + proxy.process.stderr
    assert not [
        secret for secret in ("old-secret", "new-secret", "newest-secret", "guess") if secret in printed
    ]


def test_what_a_cdn_may_keep(cdn: tuple[Proxy, int]) -> None:
    """What is pinned is public and immutable, an alias short-lived, and the length is always told."""
    _, port = cdn
    headers = {SECRET_HEADER: "new-secret"}
    for target in (WEIGHTS, MANIFEST):
        answer = ask(port, target, headers)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert int(answer.headers["content-length"]) == len(answer.body)
        alias = ask(port, target.replace("@7", "@prod"), headers)
        assert alias.headers["cache-control"] == "public, max-age=10"
        assert alias.headers["content-location"] == target
        assert alias.body == answer.body
        part = ask(port, target, {**headers, "Range": "bytes=1-9"})
        assert (part.status, part.body) == (206, answer.body[1:10])
        assert ask(port, target, {**headers, "If-None-Match": answer.headers["etag"]}).status == 304


def test_a_cdn_is_never_redirected(
    processes: Processes, s3_server: S3Server, s3_bucket: str, published: Published, store: Path
) -> None:
    """Where others are redirected to S3 because nothing fits, a CDN gets the bytes."""
    origin, environment = f"s3://{s3_bucket}", s3_server.environment()
    folder = published.folders["7"]
    processes.run("publish", str(folder), "org/bert@7", "--origin", origin, environment=environment).check()
    port = free_port()
    options = ("--cdn", f"127.0.0.1:{port}", "--budget", "1MiB")
    proxy = processes.serve(origin, store, *options, environment=environment)
    assert ask(proxy.port, WEIGHTS).status == 307
    answer = ask(port, WEIGHTS)
    assert answer.status == 200
    assert answer.body == (folder / "model.safetensors").read_bytes()
    part = ask(port, WEIGHTS, {"Range": "bytes=5000000-"})
    assert (part.status, part.body) == (206, answer.body[5_000_000:])
