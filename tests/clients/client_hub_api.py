"""huggingface_hub's questions: safetensors metadata, model info, trees, paths, and what is not there."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.hub_environment import use_proxy
from tests.clients.reporting import report, split_reference


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url, folder)
    from huggingface_hub import HfApi, __version__, get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    model, revision = split_reference(reference)
    api = HfApi()
    info = api.model_info(model, revision=revision, files_metadata=True)
    assert info.siblings is not None
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    tree = list(api.list_repo_tree(model, recursive=True, expand=True, revision=revision))
    listed = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    assert listed == sizes
    assert all(entry.last_commit.oid == info.sha for entry in tree)
    (config,) = api.get_paths_info(model, ["config.json", "no such file"], revision=revision)
    assert (config.path, config.size) == ("config.json", sizes["config.json"])
    assert api.list_repo_commits(model, revision=revision)[0].commit_id == info.sha
    metadata = get_safetensors_metadata(model, revision=revision)
    assert not api.file_exists(model, "no such file", revision=revision)
    assert not api.revision_exists(model, "no-such-revision")
    assert not api.repo_exists("no-such/model")
    for missing, error in (
        ((model, "no such file", revision), EntryNotFoundError),
        ((model, "config.json", "refs/pr/1"), RevisionNotFoundError),
        (("no-such/model", "config.json", None), RepositoryNotFoundError),
    ):
        try:
            hf_hub_download(missing[0], missing[1], revision=missing[2])
        except error:
            continue
        raise AssertionError(f"{missing} was found")
    report("HfApi", __version__, {}, sizes=sizes, tensors=sum(metadata.parameter_count.values()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
