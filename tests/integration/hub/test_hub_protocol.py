"""The Hub's read protocol as bytes on the wire, before any client of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.integration.server.wire import Answer, ask, connected
from tests.support.deadlines import wait_until
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy

FILE = "/hub/org/bert/resolve"
API = "/hub/api/models/org/bert"


def publish(processes: Processes, folder: Path, reference: str, origin: Path) -> None:
    """Publish with the installed command."""
    processes.run("publish", str(folder), reference, "--origin", f"file://{origin}").check()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An origin with versions 6 and 7 of org/bert, of which prod means 6, and one of library/one."""
    base = tmp_path_factory.mktemp("hub")
    with Processes(base / "publishing") as processes:
        (base / "origin").mkdir()
        for version, seed in (("6", 6), ("7", 7)):
            model = make_model(base / version, seed, mebibytes=1)
            (model / "sub/deep").mkdir(parents=True)
            (model / "sub/deep/größe & co.txt").write_text(version)
            publish(processes, model, f"org/bert@{version}", base / "origin")
        publish(processes, base / "6", "one@1", base / "origin")
        processes.run("alias", "org/bert", "prod=6", "--origin", f"file://{base / 'origin'}").check()
    return base


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[Proxy]:
    with Processes(folder / "processes") as processes:
        yield processes.serve(f"file://{folder / 'origin'}", folder / "store")


def commit(proxy: Proxy, revision: str = "7", model: str = "org/bert") -> str:
    """The 40 hex digits of a revision."""
    sha = ask(proxy.port, f"/hub/api/models/{model}/revision/{revision}").json()["sha"]
    assert isinstance(sha, str)
    assert len(sha) == 40
    return sha


def check_error(answer: Answer, status: int, code: str | None) -> None:
    """Check that an answer is an error as the Hub's clients read it."""
    assert answer.status == status, answer.body
    assert answer.headers.get("x-error-code") == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-error-message"]
    if answer.body:
        assert answer.json()["error"]


def test_a_file(proxy: Proxy, folder: Path) -> None:
    """A file comes with its version's id, its sha256 and its size, to HEAD as to GET."""
    data = (folder / "7/config.json").read_bytes()
    quoted = f'"{hashlib.sha256(data).hexdigest()}"'
    for method in ("GET", "HEAD"):
        answer = ask(proxy.port, f"{FILE}/7/config.json", method=method)
        assert answer.status == 200
        assert answer.body == (data if method == "GET" else b"")
        assert answer.headers["x-repo-commit"] == commit(proxy)
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == quoted
        assert answer.headers["x-linked-size"] == answer.headers["content-length"] == str(len(data))
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert not [name for name in answer.headers if "xet" in name]


def test_revisions(proxy: Proxy, folder: Path) -> None:
    """A version, an alias, main, the full names of refs and the 40 hex digits all lead to their version."""
    six, seven = commit(proxy, "6"), commit(proxy, "7")
    assert six != seven
    for revision, version in (
        ("6", "6"),
        ("prod", "6"),
        ("main", "6"),
        ("latest", "7"),
        ("refs%2Fheads%2Fmain", "6"),
        ("refs%2Ftags%2F7", "7"),
        (six, "6"),
        (seven.upper(), "7"),
    ):
        answer = ask(proxy.port, f"{FILE}/{revision}/sub/deep/gr%C3%B6%C3%9Fe%20%26%20co.txt")
        assert (answer.status, answer.body) == (200, version.encode()), revision
        assert answer.headers["x-repo-commit"] == {"6": six, "7": seven}[version]


def test_aliases_may_change_and_commits_may_not(proxy: Proxy) -> None:
    """What an alias means is kept for a short time and names the version; a version's id is for ever."""
    by_alias = ask(proxy.port, f"{FILE}/prod/config.json").headers
    assert by_alias["cache-control"] == "public, max-age=10"
    place = by_alias["content-location"]
    assert place == f"{FILE}/{commit(proxy, '6')}/config.json"
    pinned = ask(proxy.port, place).headers
    assert pinned["cache-control"] == "public, max-age=31536000, immutable"
    assert pinned["etag"] == by_alias["etag"]
    assert "content-location" not in pinned


def test_ranges_and_conditions(proxy: Proxy, folder: Path) -> None:
    """Ranges, revalidation and preconditions work as for any file."""
    data = (folder / "7/model.safetensors").read_bytes()
    part = ask(proxy.port, f"{FILE}/7/model.safetensors", {"Range": "bytes=5-9"})
    assert (part.status, part.body) == (206, data[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{len(data)}"
    assert part.headers["x-linked-size"] == str(len(data))
    same = ask(proxy.port, f"{FILE}/7/model.safetensors", {"If-None-Match": part.headers["etag"]})
    assert (same.status, same.headers["x-repo-commit"]) == (304, commit(proxy))
    beyond = ask(proxy.port, f"{FILE}/7/model.safetensors", {"Range": f"bytes={len(data)}-"})
    check_error(beyond, 416, None)
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"
    check_error(ask(proxy.port, f"{FILE}/7/config.json", {"If-Match": '"other"'}), 412, None)


def test_a_model_of_one_segment(proxy: Proxy, folder: Path) -> None:
    """An id of one segment means the model in library."""
    assert ask(proxy.port, "/hub/one/resolve/main/config.json").status == 200
    assert ask(proxy.port, "/hub/api/models/one").json()["id"] == "library/one"
    assert commit(proxy, "1", "one") == commit(proxy, "1", "library/one")


def test_what_is_not_there(proxy: Proxy) -> None:
    """404 says which of model, revision and file is missing, the last with the version's id."""
    for method in ("GET", "HEAD"):
        missing = ask(proxy.port, f"{FILE}/7/nope.json", method=method)
        check_error(missing, 404, "EntryNotFound")
        assert missing.headers["x-repo-commit"] == commit(proxy)
    for path in (f"{FILE}/7/a@b", f"{FILE}/7/..", f"{FILE}/7/sub", f"{FILE}/7/.hotstart/manifest.json"):
        check_error(ask(proxy.port, path), 404, "EntryNotFound")
    check_error(ask(proxy.port, f"{API}/tree/7/nope"), 404, "EntryNotFound")
    for revision in ("nope", "refs%2Fpr%2F1", "0" * 40, "%20"):
        check_error(ask(proxy.port, f"{FILE}/{revision}/config.json"), 404, "RevisionNotFound")
        check_error(ask(proxy.port, f"{API}/revision/{revision}"), 404, "RevisionNotFound")
    for path in ("org/nope/resolve/main/x", "api/models/nope", "datasets/a/b/resolve/main/x"):
        check_error(ask(proxy.port, f"/hub/{path}"), 404, "RepoNotFound")


def test_what_is_not_served(proxy: Proxy) -> None:
    """Other paths, methods and escapes are refused in the Hub's form, and count under a bounded name."""
    check_error(ask(proxy.port, "/hub/api/whoami-v2"), 404, None)
    check_error(ask(proxy.port, "/hub"), 404, None)
    check_error(ask(proxy.port, f"{FILE}/7/a%2Fb"), 400, None)
    refused = ask(proxy.port, f"{FILE}/7/config.json", method="DELETE")
    check_error(refused, 405, None)
    assert refused.headers["allow"] == "GET, HEAD"
    check_error(ask(proxy.port, f"{API}/paths-info/7"), 405, None)
    check_error(ask(proxy.port, f"{API}/tree/7?limit=0"), 400, None)
    check_error(ask(proxy.port, f"{FILE}/7/config.json", {"X-Latency-Tier": "soon"}), 400, None)
    assert proxy.metric("hotstart_requests_total", route="none", status="404") >= 2


def test_a_listing_of_several_pages(proxy: Proxy) -> None:
    """Pages lead to one another by absolute links, of the very version that the first one was of."""
    whole = ask(proxy.port, f"{API}/tree/latest?recursive=true").json()
    assert "sub/deep/größe & co.txt" in [entry["path"] for entry in whole]
    seen = []
    target = f"{API}/tree/latest?recursive=True&limit=2"
    while target:
        answer = ask(proxy.port, target)
        seen += answer.json()
        link = answer.headers.get("link", "")
        assert not link or (link.startswith("<http://proxy/hub/") and link.endswith('>; rel="next"'))
        target = link[1:].partition(">")[0].removeprefix("http://proxy")
        assert not target or target.startswith(f"{API}/tree/{commit(proxy)}?")
    assert seen == whole


def test_links_keep_to_https(proxy: Proxy) -> None:
    """Behind a proxy that ends TLS the next page is asked for by HTTPS, too."""
    answer = ask(proxy.port, f"{API}/tree/7?limit=1", {"X-Forwarded-Proto": "https"})
    assert answer.headers["link"].startswith("<https://proxy/hub/")


def test_a_folder_with_escaped_slashes(proxy: Proxy) -> None:
    """A folder is named as clients name it, with its slashes escaped."""
    entries = ask(proxy.port, f"{API}/tree/7/sub%2Fdeep").json()
    assert [entry["path"] for entry in entries] == ["sub/deep/größe & co.txt"]


def test_posted_paths(proxy: Proxy) -> None:
    """Of the paths that are posted, those that are there are described."""
    body = urlencode({"paths": ["config.json", "sub", "nope"], "expand": True}, doseq=True)
    with connected(proxy.port) as wire:
        for media_type, text in (
            ("application/x-www-form-urlencoded", body),
            ("application/json", json.dumps({"paths": ["config.json", "sub"], "expand": True})),
        ):
            wire.send(
                f"POST {API}/paths-info/7 HTTP/1.1\r\nHost: proxy\r\nContent-Type: {media_type}\r\n"
                f"Content-Length: {len(text)}\r\n\r\n{text}"
            )
            answer = wire.answer()
            assert answer.status == 200
            assert [entry["path"] for entry in answer.json()] == ["config.json", "sub"]
            assert answer.json()[0]["lastCommit"]["id"] == answer.headers["x-repo-commit"] == commit(proxy)


def test_a_body_without_end(proxy: Proxy) -> None:
    """A body that is longer than any list of paths is refused."""
    with connected(proxy.port) as wire:
        wire.send(f"POST {API}/paths-info/7 HTTP/1.1\r\nHost: proxy\r\nContent-Length: 2000000\r\n\r\n")
        wire.send(b"x" * 1_200_000)
        check_error(wire.answer(), 400, None)


def test_tokens(processes: Processes, folder: Path, tmp_path: Path) -> None:
    """Where tokens are needed a request without one is refused in words that clients do not take for 404."""
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    proxy = processes.serve(f"file://{folder / 'origin'}", tmp_path / "store", "--token-file", str(tokens))
    target = f"{FILE}/7/config.json"
    for headers in ({}, {"Authorization": "Bearer hf_other"}):
        refused = ask(proxy.port, target, headers)
        check_error(refused, 401, None)
        assert refused.headers["x-error-message"] == "Invalid credentials in Authorization header"
    allowed = ask(proxy.port, target, {"Authorization": "Bearer secret"})
    assert allowed.status == 200
    assert allowed.headers["cache-control"].startswith("private")


def test_an_origin_that_is_away_is_no_404(processes: Processes, tmp_path: Path) -> None:
    """Whether a model exists is not told where the origin cannot be asked."""
    origin = tmp_path / "origin"
    origin.mkdir()
    proxy = processes.serve(f"file://{origin}", tmp_path / "store")
    origin.rmdir()
    check_error(ask(proxy.port, f"{FILE}/7/config.json"), 502, None)


def test_old_versions_are_found_by_their_ids(processes: Processes, tmp_path: Path) -> None:
    """A version older than those whose manifests the index names is found by its id, by any proxy."""
    origin = tmp_path / "origin"
    origin.mkdir()
    model = make_model(tmp_path / "model", 1, mebibytes=1)
    commits = {}
    first = processes.serve(f"file://{origin}", tmp_path / "first", "--alias-ttl", "50ms")
    for version in map(str, range(8)):
        (model / "config.json").write_text(version)
        publish(processes, model, f"org/bert@{version}", origin)
        commits[version] = commit(first, version)
    second = processes.serve(f"file://{origin}", tmp_path / "second")
    for version, sha in commits.items():
        assert commit(second, version) == sha
        answer = ask(second.port, f"{FILE}/{sha}/config.json")
        assert (answer.status, answer.body) == (200, version.encode())


def test_an_id_that_another_proxy_gave(processes: Processes, tmp_path: Path) -> None:
    """An id is found by a proxy that asked the origin just before the version was published."""
    origin = tmp_path / "origin"
    origin.mkdir()
    model = make_model(tmp_path / "model", 1, mebibytes=1)
    publish(processes, model, "org/bert@1", origin)
    quick = processes.serve(f"file://{origin}", tmp_path / "quick", "--alias-ttl", "50ms")
    slow = processes.serve(f"file://{origin}", tmp_path / "slow", "--alias-ttl", "1h")
    commit(slow, "1")
    (model / "config.json").write_text("2")
    publish(processes, model, "org/bert@2", origin)
    check_error(ask(slow.port, f"{API}/revision/{'0' * 40}"), 404, "RevisionNotFound")
    wait_until("the version", lambda: ask(quick.port, f"{API}/revision/2").status == 200)
    assert ask(slow.port, f"{FILE}/{commit(quick, '2')}/config.json").body == b"2"


def test_a_version_that_is_published_anew_has_another_id(processes: Processes, tmp_path: Path) -> None:
    """After a version was withdrawn and published with other files its old id is not found any more."""
    origin = tmp_path / "origin"
    origin.mkdir()
    model = make_model(tmp_path / "model", 1, mebibytes=1)
    publish(processes, model, "org/bert@1", origin)
    proxy = processes.serve(f"file://{origin}", tmp_path / "store", "--alias-ttl", "50ms")
    before = commit(proxy, "1")
    processes.run("unpublish", "org/bert@1", "--origin", f"file://{origin}").check()
    (model / "config.json").write_text("other")
    publish(processes, model, "org/bert@1", origin)
    wait_until("the new version", lambda: commit(proxy, "1") != before)
    check_error(ask(proxy.port, f"{FILE}/{before}/config.json"), 404, "RevisionNotFound")


def test_adopted_versions(processes: Processes, tmp_path: Path) -> None:
    """Adopted files have an ETag though nobody knows their sha256, and none claims to have one."""
    folder = tmp_path / "origin/org/bert/1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (1_700_000_000, 1_700_000_000))
    proxy = processes.serve(f"file://{tmp_path / 'origin'}", tmp_path / "store")
    head = ask(proxy.port, f"{FILE}/main/config.json", method="HEAD")
    assert head.status == 200
    assert head.headers["etag"] == head.headers["x-linked-etag"] != f'"{hashlib.sha256(b"{}").hexdigest()}"'
    assert "lfs" not in ask(proxy.port, f"{API}/tree/1").json()[0]
    assert ask(proxy.port, f"{FILE}/{commit(proxy, '1')}/config.json").body == b"{}"
