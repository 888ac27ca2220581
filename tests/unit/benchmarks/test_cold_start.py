"""What the handlers of the cold starts infer, and which models they are started with."""

from __future__ import annotations

import pytest

from benchmarks.cold_start import deep_minilm, models
from benchmarks.harness.profile import PROFILES
from benchmarks.harness.weights import minilm


def test_the_shallow_model_is_the_real_one() -> None:
    """Six layers are the real model's, and nothing is made."""
    assert deep_minilm(6) == minilm()


@pytest.mark.parametrize("name", PROFILES)
def test_the_real_model_is_always_measured(name: str) -> None:
    """Results are kept by the models' names; the first is the real one."""
    chosen = models(PROFILES[name])
    assert chosen[0].layers == 6
    assert len({model.name for model in chosen}) == len(chosen)


def test_the_encoder_encodes() -> None:
    """With the real weights two sentences about the weather are as near as the model's card says."""
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    from benchmarks.handlers.encoder import similarity

    # The card has them with capitals and full stops: 0.666.
    assert similarity(load_file(minilm())) == pytest.approx(0.67, abs=0.05)
