"""Which bucket and key a request names."""

from __future__ import annotations

import pytest

from hotstart.wire.references import Reference
from hotstart_proxy.server.s3.errors import MalformedKey, NoSuchBucket
from hotstart_proxy.server.s3.targets import Target, find_target, is_bucket_name, key_reference


@pytest.mark.parametrize(
    ("host", "path", "target"),
    [
        ("proxy", "", Target(has_bucket=False)),
        ("proxy", "/", Target(has_bucket=False)),
        ("proxy:8470", "/models", Target(has_bucket=True)),
        ("proxy", "/models/", Target(has_bucket=True)),
        ("proxy", "/models/a/b%20c+d", Target(has_bucket=True, key="a/b c+d")),
        ("models.proxy", "/a/b", Target(has_bucket=True, key="a/b")),
        ("Models.proxy:1", "/", Target(has_bucket=True)),
        ("models.proxy", "", Target(has_bucket=True)),
        ("models.proxy", "/models/a", Target(has_bucket=True, key="a")),
    ],
)
def test_both_styles(host: str, path: str, target: Target) -> None:
    """The bucket stands in the path or in the host; where it stands in both, the path counts."""
    assert find_target("models", host, path) == target


def test_what_is_no_target() -> None:
    """Another bucket is told from a path that cannot be decoded."""
    for host, path in (("proxy", "/other/a"), ("modelsx.proxy", "/a"), ("models", "/a")):
        with pytest.raises(NoSuchBucket):
            find_target("models", host, path)
    for path in ("/models/a%2Fb", "/models/%00", "/models/%ff", "/models/%"):
        with pytest.raises(MalformedKey):
            find_target("models", "proxy", path)


def test_keys_are_references() -> None:
    """A key is a model's two segments, a version and a file; nothing else is any object's key."""
    assert key_reference("org/bert/7/sub/x.json") == Reference("org/bert", "7", "sub/x.json")
    for key in ("", "org", "org/bert/7", "org/bert/7/", "org/bert/latest/x", "org/bert/main/x", "a/b@1/7/x"):
        assert key_reference(key) is None, key
    assert key_reference(f"org/bert/{'a' * 40}/x") is None


def test_names_of_buckets() -> None:
    """A bucket's name is one that S3's clients accept in a host."""
    assert all(map(is_bucket_name, ("models", "a.b-c", "123")))
    assert not any(map(is_bucket_name, ("ab", "Models", "-ab", "ab-", "a_b", "a" * 64, "")))
