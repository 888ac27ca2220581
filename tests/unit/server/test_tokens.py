"""The file of tokens: who is let in, with which rights, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart_proxy.server.problems import Unauthorized
from hotstart_proxy.server.secret_files import InvalidSecretFile
from hotstart_proxy.server.tokens import Rights, Tokens


def tokens(folder: Path, text: str) -> Tokens:
    file = folder / "tokens"
    file.write_text(text)
    return Tokens(file)


def test_rights(tmp_path: Path) -> None:
    """A bare token gives access alone; the word premium behind it, however spaced, gives that tier."""
    known = tokens(tmp_path, "\n# people\n plain \nurgent \t premium\n")
    assert known.check("Bearer plain") == Rights()
    assert known.check("Bearer urgent") == Rights(premium=True)
    for header in (None, "Bearer premium", "Bearer urgent premium", "Basic plain"):
        with pytest.raises(Unauthorized):
            known.check(header)


@pytest.mark.parametrize("line", ["plain standard", "plain premium premium", "plain premium # yes", "pläin"])
def test_lines_that_are_none(tmp_path: Path, line: str) -> None:
    """A line with anything else is refused by its number, and not repeated: it holds a secret."""
    with pytest.raises(InvalidSecretFile, match="line 2") as caught:
        tokens(tmp_path, f"first\n{line}\n")
    assert "pl" not in caught.value.reason.replace("expected", "")
