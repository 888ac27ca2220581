"""A load format for vLLM: ``vllm serve $(python -m hotstart.vllm org/llm@prod) --load-format hotstart``.

vLLM finds ``register`` by the entry point ``vllm.general_plugins`` and calls it in each of its processes.
Configuration and tokenizer it reads from a folder, which the command brings them into; weights stream from
hotstart into the model that vLLM has made. The folder says which version it is of: all workers load that one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hotstart.downloads import Download, default_folder, side_files
from hotstart.errors import DownloadFailed, HotstartError, InvalidOption
from hotstart.model import Model, open_model

__all__ = ["main", "open_version", "prepare", "register"]

LOAD_FORMAT = "hotstart"
# No file of a version begins like this (reserved names).
_REFERENCE_FILE = ".hotstart-reference"
_USAGE = "usage: python -m hotstart.vllm ORG/MODEL[@VERSION]"


def register() -> None:
    """Make ``--load-format hotstart`` known to vLLM, in this process."""
    from vllm.model_executor.model_loader import register_model_loader

    from hotstart.vllm_loader import HotstartModelLoader

    register_model_loader(LOAD_FORMAT)(HotstartModelLoader)


def prepare(reference: str) -> Path:
    """Bring all that is not weights into the version's folder of the user's cache, and return the folder.

    Raises:
        DownloadFailed: the folder cannot be written.
        HotstartError: as ``hotstart.open`` and ``Model.download``.
    """
    model = open_model(reference)
    folder = Download(
        model.opened, default_folder(model.model, model.version), only=side_files(model.files)
    ).run()
    try:
        (folder / _REFERENCE_FILE).write_text(f"{model.reference}\n")
    except OSError as error:
        raise DownloadFailed(folder / _REFERENCE_FILE, error.strerror or str(error)) from error
    return folder


def open_version(model: str, revision: str | None) -> Model:
    """Open the version that vLLM's ``--model`` and ``--revision`` mean.

    Args:
        model: a folder that ``prepare`` has made, or a model's name; its configuration then is from a Hub.
        revision: of a name: the version itself. An alias would be looked up by each worker for itself.

    Raises:
        InvalidOption: the folder was not made by ``prepare``, or no version is named.
        HotstartError: as ``hotstart.open``.
    """
    folder = Path(model)
    if folder.is_dir():
        try:
            return open_model((folder / _REFERENCE_FILE).read_text().strip())
        except OSError as error:
            expected = "a folder that `python -m hotstart.vllm ORG/MODEL` printed"
            raise InvalidOption("model", model, expected) from error
    opened = None if revision is None else open_model(f"{model}@{revision}")
    if opened is None or opened.version != revision:
        is_now = "" if opened is None else f" ({opened.version} at present)"
        expected = f"a version{is_now}; or give vLLM the folder that `python -m hotstart.vllm {model}` prints"
        raise InvalidOption("revision", revision, expected)
    return opened


def main(arguments: Sequence[str]) -> int:
    """Prepare a folder and print it; return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(_USAGE, file=sys.stderr)  # noqa: T201
        return 2
    try:
        print(prepare(arguments[0]))  # noqa: T201
    except HotstartError as error:
        print(f"hotstart.vllm: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
