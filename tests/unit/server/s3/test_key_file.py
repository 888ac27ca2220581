"""The file of keys for S3's clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart_proxy.server.s3.key_file import S3Keys
from hotstart_proxy.server.secret_files import InvalidSecretFile


def test_a_line_is_a_key(tmp_path: Path) -> None:
    """A line holds id and secret and perhaps premium; comments and empty lines are passed over."""
    file = tmp_path / "keys"
    file.write_text("# readers\n\nfirst s3cret/+=\nsecond other premium\n")
    keys = S3Keys(file)
    assert keys.secret_of("first") == "s3cret/+="
    assert keys.secret_of("third") is None
    assert [keys.rights_of(key).premium for key in ("first", "second", "third")] == [False, True, False]
    assert "s3cret" not in repr(keys)


def test_a_change_counts_at_once(tmp_path: Path) -> None:
    """A changed file counts for the next request; one that cannot be used leaves the last keys in force."""
    file = tmp_path / "keys"
    file.write_text("first one\n")
    keys = S3Keys(file)
    file.write_text("second and longer\n")
    assert keys.secret_of("first") == "one"
    file.write_text("second two\n\n")
    assert (keys.secret_of("first"), keys.secret_of("second")) == (None, "two")
    file.unlink()
    assert keys.secret_of("second") == "two"
    file.write_text("")
    assert keys.secret_of("second") is None


@pytest.mark.parametrize(
    "text", ["", "# none\n", "alone\n", "id s3cret other\n", "i s3cret\n", "id/x s3cret\n"]
)
def test_what_is_no_file_of_keys(tmp_path: Path, text: str) -> None:
    """A file without a key, or with a line that is none, is refused at the start without showing a secret."""
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InvalidSecretFile) as error:
        S3Keys(file)
    assert "s3cret" not in str(error.value)


def test_an_id_stands_once(tmp_path: Path) -> None:
    """Two secrets of one id are a mistake that is told by its line."""
    file = tmp_path / "keys"
    file.write_text("same one\nsame two\n")
    with pytest.raises(InvalidSecretFile, match="line 2"):
        S3Keys(file)
