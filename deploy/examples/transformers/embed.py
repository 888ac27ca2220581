"""Embed a sentence: python embed.py org/minilm@prod "how cold is a cold start"."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModel, AutoTokenizer

import hotstart
from hotstart.transformers import from_pretrained


def main(reference: str, sentence: str) -> None:
    """Print the version, and the first numbers of the sentence's embedding."""
    # Opened once: model and tokenizer are of one version.
    version = hotstart.open(reference)
    model = from_pretrained(AutoModel, version)
    tokenizer = from_pretrained(AutoTokenizer, version)
    words = tokenizer(sentence, return_tensors="pt")
    with torch.no_grad():
        embedding = model(**words)[0].mean(dim=1)[0]
    numbers = " ".join(f"{number:.6f}" for number in embedding[:4])
    print(f"{version.reference}: {len(embedding)} numbers, {numbers} ...")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
