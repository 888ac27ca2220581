"""transformers: configuration, tokenizer and weights by ``from_pretrained``, down to the same embedding.

With an empty URL the reference is a local folder, to compare with.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients.hub_environment import use_proxy
from tests.clients.reporting import report, split_reference

SENTENCE = "The proxy keeps the last five versions of each model."


def main(url: str, reference: str, folder: Path) -> None:
    use_proxy(url, folder)
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer, __version__

    model_id, revision = split_reference(reference) if url else (reference, None)
    revision = revision or "main"
    config = AutoConfig.from_pretrained(model_id, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(model_id, revision=revision)
    model = AutoModel.from_pretrained(model_id, revision=revision)
    model.eval()
    torch.set_num_threads(1)
    with torch.inference_mode():
        states = model(**tokenizer(SENTENCE, return_tensors="pt")).last_hidden_state
    embedding = states.mean(dim=1).numpy().tobytes()
    report("transformers", __version__, {"embedding": embedding}, hidden=config.hidden_size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
