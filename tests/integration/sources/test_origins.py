"""Origins read by the client itself: a real S3 server, and real directories."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest
from botocore.session import Session as BotocoreSession

from hotstart.sources.base import AllSourcesFailed, SourceError, SourceKind
from hotstart.sources.catalog import open_version
from hotstart.sources.chain import open_reference
from hotstart.sources.inventory import describe_model, list_models
from hotstart.sources.origin import OriginReader
from hotstart.sources.origin_file import DirectoryOrigin
from hotstart.wire.listing import Listing, ObjectBytes
from hotstart.wire.manifest import Manifest, Representation
from hotstart.wire.opening import Opening
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from tests.integration.sources.scripted import Answer, ScriptedServer
from tests.integration.sources.trees import Tree, write_folder
from tests.integration.sources.versions import read_all
from tests.support.models import make_model
from tests.support.s3 import S3Server

LONG_AGO = 1_600_000_000


@pytest.fixture(params=["file", "s3"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    tree: Tree = request.getfixturevalue("directory" if request.param == "file" else "bucket")
    return tree


@pytest.fixture
def directory(tmp_path: Path) -> Tree:
    # A blank in the path: it is %20 in the URL.
    return Tree(tmp_path.joinpath("the origin").as_uri(), {})


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Tree:
    # For the publisher, whose AWS library looks there.
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Tree(f"s3://{s3_server.create_bucket()}/some/prefix", s3_server.environment())


def _open(tree: Tree, reference: str) -> Opening:
    return open_version(tree.origin(), parse_reference(reference))


def _read(tree: Tree, manifest: Manifest, representation: Representation, wanted: ByteRange) -> bytes:
    session = tree.origin().session()
    file = manifest.file(representation.path.removesuffix(".zst").removesuffix(".zsp"))
    assert file is not None
    try:
        return read_all(session.fetch(file, representation, wanted))
    finally:
        session.close()


def _all_bytes(representation: Representation) -> ByteRange:
    return ByteRange(0, representation.size)


def test_a_published_version_is_read_as_it_was_published(tree: Tree, tmp_path: Path) -> None:
    """Without a proxy, every file of a version arrives bit for bit, whole and in ranges, twins too."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    tree.publish(folder, "org/bert@7", alias="prod")
    opened = open_reference(parse_reference("org/bert@prod/config.json"), tree.environment())
    assert str(opened.reference) == "org/bert@7/config.json"
    assert opened.opened_by == tree.origin().name
    manifest = opened.opening.manifest
    assert Manifest.parse(opened.opening.manifest_bytes) == manifest
    source = opened.sources.current()
    assert source.kind is SourceKind.ORIGIN
    assert source.is_local is tree.url.startswith("file:")
    session = source.session()
    for file in manifest.files:
        data = (folder / file.path).read_bytes()
        assert read_all(session.fetch(file, file.identity(), _all_bytes(file.identity()))) == data
        some = ByteRange(len(data) // 3, len(data) - 1)
        assert read_all(session.fetch(file, file.identity(), some)) == data[some.start : some.stop]
    weights = manifest.file("model.safetensors")
    assert weights is not None
    assert [twin.suffix for twin in weights.twins] == [".zsp", ".zst"]
    for twin in weights.twins:
        representation = weights.twin(twin.suffix)
        assert representation is not None
        found = read_all(session.fetch(weights, representation, _all_bytes(representation)))
        assert found.endswith(twin.seek_table)
    session.close()


def test_selectors_mean_what_the_index_says(tree: Tree, tmp_path: Path) -> None:
    """Versions, aliases, latest, and none at all are resolved by the index in the origin."""
    for number in (6, 7, 8):
        folder = write_folder(tmp_path / str(number), {"config.json": b"%d" % number})
        tree.publish(folder, f"org/bert@{number}", alias="canary" if number == 7 else None)
    for selector, version in (("@6", "6"), ("@canary", "7"), ("@latest", "8"), ("", "8"), ("@main", "8")):
        assert _open(tree, f"org/bert{selector}").manifest.version == version
    with pytest.raises(SourceError, match="there is 6, 7, 8, canary"):
        _open(tree, "org/bert@9")
    with pytest.raises(SourceError, match="there is no such model"):
        _open(tree, "org/other")


def test_a_replaced_object_is_refused(tree: Tree, tmp_path: Path, s3_server: S3Server) -> None:
    """An object that is no longer the manifest's gives no byte."""
    tree.publish(write_folder(tmp_path / "m", {"config.json": b"{} "}), "org/bert@7")
    manifest = _open(tree, "org/bert@7").manifest
    config = manifest.files[0].identity()
    if tree.url.startswith("file:"):
        path = tmp_path / "the origin" / config.origin.key
        path.unlink()
        path.write_bytes(b"[] ")
    else:
        bucket = tree.url.split("/")[2]
        s3_server.put(bucket, f"some/prefix/{config.origin.key}", b"[] ")
    with pytest.raises(SourceError, match=r"no longer the one in the manifest|was replaced") as caught:
        _read(tree, manifest, config, _all_bytes(config))
    assert not caught.value.transient


def test_a_listing_tells_models_versions_and_what_is_ignored(tree: Tree, tmp_path: Path) -> None:
    """ls shows models and versions, and says of everything else why it does not count."""
    tree.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@7", alias="prod")
    # A published folder under another name: plain files, and too young to be adopted.
    odd = write_folder(tmp_path / "odd", {"a b+c%41&d.bin": b"x", "sub/ü.json": b"y"})
    _upload(tree, odd, "org/bert/8/")
    found = list_models(tree.environment())
    assert found.models == ("org/bert",)
    assert found.source == tree.origin().name
    description = describe_model(tree.environment(), "org/bert")
    assert description.index is not None
    assert [entry.version for entry in description.index.versions] == ["7"]
    assert description.index.aliases == {"prod": "7"}
    assert [item.key for item in description.ignored] == ["org/bert/8/"]
    assert "60" in description.ignored[0].reason
    with pytest.raises(AllSourcesFailed, match="there is no such model"):
        describe_model(tree.environment(), "org/none")


def _upload(tree: Tree, folder: Path, prefix: str) -> None:
    if tree.url.startswith("file:"):
        target = Path(urllib.request.url2pathname(tree.url.removeprefix("file://")))
        write_folder(target / prefix, _files(folder))
        return
    _, _, bucket, start = tree.url.split("/", 3)
    client = BotocoreSession().create_client(
        "s3",
        endpoint_url=tree.variables["AWS_ENDPOINT_URL_S3"],
        region_name=tree.variables["AWS_REGION"],
        aws_access_key_id=tree.variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=tree.variables["AWS_SECRET_ACCESS_KEY"],
    )
    for path, data in _files(folder).items():
        client.put_object(Bucket=bucket, Key=f"{start}/{prefix}{path}", Body=data)
    client.close()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_keys_of_every_spelling_are_listed_and_read(bucket: Tree, tmp_path: Path) -> None:
    """Blanks, plus signs, percent signs and letters beyond ASCII survive listing and signing."""
    files = {"a b+c%41&d=e~.bin": b"1", "sub/ünï 日本.json": b"22", "(x)'!$;,.txt": b"333"}
    bucket.publish(write_folder(tmp_path / "m", files), "org/bert@7")
    manifest = _open(bucket, "org/bert@7").manifest
    assert {file.path for file in manifest.files} == set(files)
    for file in manifest.files:
        found = _read(bucket, manifest, file.identity(), _all_bytes(file.identity()))
        assert found == files[file.path]
    with bucket.origin().reader("listing") as reader:
        keys = {item.key for item in reader.listing("org/bert/7/", recursive=True).objects}
        folders = reader.listing("org/", recursive=False).folders
    assert {f"org/bert/7/{path}" for path in files} <= keys
    assert folders == ("org/bert/",)


def test_an_adopted_folder_is_read_like_any_version(directory: Tree, tmp_path: Path) -> None:
    """Plain files that someone uploaded a while ago are a version."""
    folder = tmp_path / "the origin" / "org" / "bert" / "v1"
    write_folder(folder, {"config.json": b"{}"})
    os.utime(folder / "config.json", (LONG_AGO, LONG_AGO))
    manifest = _open(directory, "org/bert@latest").manifest
    assert (manifest.version, manifest.files[0].sha256) == ("v1", None)
    config = manifest.files[0].identity()
    assert _read(directory, manifest, config, _all_bytes(config)) == b"{}"
    assert describe_model(directory.environment(), "org/bert").adopted == {"v1"}


class Counting(DirectoryOrigin):
    """Notes which keys and prefixes are asked for."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.asked: list[str] = []

    def reader(self, doing: str) -> OriginReader:
        reader = super().reader(doing)
        asked = self.asked

        class Reader(OriginReader):
            def read(self, key: str, known_etag: str | None) -> ObjectBytes | None:
                asked.append(key)
                return reader.read(key, known_etag)

            def listing(self, prefix: str, *, recursive: bool) -> Listing:
                asked.append(prefix)
                return reader.listing(prefix, recursive=recursive)

            def close(self) -> None:
                reader.close()

        return Reader()


@pytest.mark.parametrize("selector", ["v1", "prod"])
def test_a_named_version_is_looked_for_alone(directory: Tree, tmp_path: Path, selector: str) -> None:
    """Opening an adopted version by its name or an alias looks into no other version's folder."""
    directory.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@p1", alias="other")
    for version in ("v1", "v2"):
        folder = tmp_path / "the origin" / "org" / "bert" / version
        write_folder(folder, {"m.safetensors.index.json": b'{"weight_map":{"a":"s"}}', "s": b"1"})
        for path in folder.iterdir():
            os.utime(path, (LONG_AGO, LONG_AGO))
    directory.move_alias("org/bert", "prod", "v1")
    origin = Counting(str(tmp_path / "the origin"))
    assert open_version(origin, parse_reference(f"org/bert@{selector}")).manifest.version == "v1"
    assert {key.split("/")[2] for key in origin.asked} == {".hotstart", "v1"}
    origin.asked.clear()
    assert open_version(origin, parse_reference("org/bert@other")).manifest.version == "p1"
    assert origin.asked == ["org/bert/.hotstart/index.json", "org/bert/p1/.hotstart/manifest.json"]


def test_a_file_written_to_while_it_is_read_fails(directory: Tree, tmp_path: Path) -> None:
    """Bytes that were read after a write to the file are not given out."""
    data = bytes(3_000_000)
    directory.publish(write_folder(tmp_path / "m", {"weights.bin": data}), "org/bert@7")
    manifest = _open(directory, "org/bert@7").manifest
    weights = manifest.files[0].identity()
    session = directory.origin().session()
    with session.fetch(manifest.files[0], weights, _all_bytes(weights)) as body:
        assert body.readinto(memoryview(bytearray(1_000_000))) == 1_000_000
        path = tmp_path / "the origin" / weights.origin.key
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(2_000_000)
            file.write(b"other")
        with pytest.raises(SourceError, match="replaced, written to or copied"):
            body.readinto(memoryview(bytearray(1_000_000)))
    session.close()


def test_a_closed_session_gives_no_more(directory: Tree, tmp_path: Path) -> None:
    """close() from another thread ends the reading of a file at its next step."""
    directory.publish(write_folder(tmp_path / "m", {"weights.bin": bytes(1000)}), "org/bert@7")
    manifest = _open(directory, "org/bert@7").manifest
    session = directory.origin().session()
    with session.fetch(manifest.files[0], manifest.files[0].identity(), ByteRange(0, 1000)) as body:
        body.readinto(memoryview(bytearray(10)))
        session.close()
        with pytest.raises(SourceError, match="from our side"):
            body.readinto(memoryview(bytearray(10)))


def test_what_is_no_plain_file_is_not_there(directory: Tree, tmp_path: Path) -> None:
    """Links out of the directory, pipes and half-written files are neither listed nor read."""
    root = tmp_path / "the origin"
    inside = write_folder(root / "org" / "bert" / "7", {"config.json": b"{}", ".hotstart-tmp-1": b"?"})
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (inside / "out").symlink_to(secret)
    (inside / "loop").symlink_to(inside.parent)
    (inside / "nowhere").symlink_to(tmp_path / "none")
    (inside / "in").symlink_to("config.json")
    os.mkfifo(inside / "pipe")
    with directory.origin().reader("looking") as reader:
        keys = [item.key for item in reader.listing("", recursive=True).objects]
        assert "org/bert/7/config.json" in keys
        assert "org/bert/7/in" in keys
        assert not [key for key in keys if key.endswith(("out", "nowhere", "pipe", "tmp-1"))]
        assert reader.read("org/bert/7/pipe", None) is None
        assert reader.read("org/bert/7", None) is None
        assert reader.read("org/bert/7/config.json/x", None) is None
        for key in ("org/bert/7/out", "org/../../secret", "org/bert/7/.hotstart-tmp-1"):
            with pytest.raises(SourceError):
                reader.read(key, None)


def test_a_directory_that_is_not_there_is_cannot_and_not_missing(tmp_path: Path) -> None:
    """An unmounted volume must not look like an origin without models."""
    tree = Tree((tmp_path / "none").as_uri(), {})
    with pytest.raises(AllSourcesFailed, match="there is no such directory"):
        list_models(tree.environment())
    with pytest.raises(AllSourcesFailed, match="there is no such directory"):
        open_reference(parse_reference("org/bert"), tree.environment())


def test_a_malformed_index_is_one_error(directory: Tree, tmp_path: Path) -> None:
    """Damage at the origin is reported as what it is."""
    write_folder(tmp_path / "the origin" / "org" / "bert", {".hotstart/index.json": b"{}"})
    with pytest.raises(AllSourcesFailed, match="malformed index"):
        open_reference(parse_reference("org/bert"), directory.environment())


def test_an_unchanged_document_is_not_sent_again(tree: Tree, tmp_path: Path) -> None:
    """A conditional read brings no data while the object is the same."""
    tree.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@7")
    with tree.origin().reader("looking") as reader:
        first = reader.read("org/bert/.hotstart/index.json", None)
        assert first is not None
        assert first.data
        second = reader.read("org/bert/.hotstart/index.json", first.etag)
        assert second is not None
        assert (second.data, second.etag) == (None, first.etag)
        other = reader.read("org/bert/.hotstart/index.json", '"other"')
        assert other == first
        assert reader.read("org/bert/.hotstart/none.json", None) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "HTTP 403"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "HTTP 403"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "none found: set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "must both be set"),
        ({"AWS_ENDPOINT_URL_S3": "ftp://h"}, "expected an http:// or https:// URL"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "nobody listens there"),
    ],
)
def test_what_is_wrong_with_access_is_said(
    bucket: Tree, tmp_path: Path, change: dict[str, str], expected: str
) -> None:
    """Wrong, missing or half credentials and a wrong endpoint each get an error that names them."""
    bucket.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@7")
    changed = Tree(bucket.url, {**bucket.variables, **change})
    with pytest.raises(AllSourcesFailed, match=expected) as caught:
        open_reference(parse_reference("org/bert@7"), changed.environment())
    assert "hotstart-test-secret" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_an_error(bucket: Tree) -> None:
    """No bucket is not the same as no model."""
    with pytest.raises(AllSourcesFailed, match="NoSuchBucket"):
        open_reference(
            parse_reference("org/bert"), Tree("s3://no-such-bucket", bucket.variables).environment()
        )


def test_a_connection_serves_many_requests(bucket: Tree, tmp_path: Path) -> None:
    """Ranges of several files go over one connection, in any order."""
    files = {f"{number}.bin": bytes([number]) * 1000 for number in range(1, 6)}
    bucket.publish(write_folder(tmp_path / "m", files), "org/bert@7")
    manifest = _open(bucket, "org/bert@7").manifest
    session = bucket.origin().session()
    for file in (*manifest.files, *reversed(manifest.files)):
        found = read_all(session.fetch(file, file.identity(), ByteRange(10, 990)))
        assert found == files[file.path][10:990]
    session.close()


def test_what_the_index_names_is_opened_with_two_requests(directory: Tree, tmp_path: Path) -> None:
    """Index and manifest are all that is read for a published version or alias; no folder is listed."""
    directory.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@7", alias="prod")
    objects = {
        f"/bucket/org/bert/{name}": (tmp_path / "the origin/org/bert" / name).read_bytes()
        for name in (".hotstart/index.json", "7/.hotstart/manifest.json")
    }
    with ScriptedServer(lambda request: Answer(200, {"ETag": '"e"'}, objects[request.target])) as server:
        variables = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        for reference in ("org/bert@7", "org/bert@prod", "org/bert", "org/bert@main"):
            assert _open(Tree("s3://bucket", variables), reference).manifest.version == "7"
        assert (server.connections, len(server.requests)) == (4, 8)


def test_a_manifest_that_is_not_the_indexs_is_refused(directory: Tree, tmp_path: Path) -> None:
    """A manifest that somebody changed after it was published is not believed."""
    directory.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/bert@7")
    path = tmp_path / "the origin" / "org" / "bert" / "7" / ".hotstart" / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SourceError, match="not the one in the index"):
        _open(directory, "org/bert@7")
