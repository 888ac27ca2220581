"""Loads a model with transformers until a file appears, and checks that weights and configuration agree.

``pretrained.py make FOLDER NUMBER`` writes a tiny model whose weights and configuration both tell its number;
``pretrained.py load URL MODEL REVISION FOLDER STOP_FILE`` loads it and prints how often which it was.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from tests.clients.hub_environment import use_proxy


def make(folder: Path, number: int) -> None:
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=100,
        max_position_embeddings=16,
    )
    config.number = number
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)
    # Several files, which are fetched one after the other.
    model.save_pretrained(folder, max_shard_size="10KB")


def load(url: str, model: str, revision: str, folder: Path, stop: Path) -> None:
    use_proxy(url, folder)
    from transformers import AutoModel

    seen: Counter[int] = Counter()
    while not stop.exists() or not seen:
        loaded = AutoModel.from_pretrained(model, revision=revision, cache_dir=folder / "cache")
        numbers = {int(value) for parameter in loaded.parameters() for value in parameter.unique()}
        assert numbers == {loaded.config.number}, (numbers, loaded.config.number)
        seen[loaded.config.number] += 1
        # What is there is not asked for again, and the next round must ask.
        shutil.rmtree(folder / "cache")
    print(json.dumps(seen))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        load(sys.argv[2], sys.argv[3], sys.argv[4], Path(sys.argv[5]), Path(sys.argv[6]))
