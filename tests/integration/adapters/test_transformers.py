"""transformers' from_pretrained through hotstart: bit for bit what transformers makes of the same folder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hotstart
from hotstart.model import Model
from tests.integration.adapters.conftest import Origin
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.models import minilm_folder
from tests.support.processes import Processes

torch = pytest.importorskip("torch")

import transformers  # noqa: E402 - after torch is known to be there

from hotstart.transformers import from_pretrained  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, for this test alone; and nobody asks the Hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "hotstart"


def gpt2() -> Any:
    """Output and input embedding tied, generation settings of its own."""
    config = transformers.GPT2Config(n_embd=32, n_head=2, n_layer=2, vocab_size=100, n_positions=64)
    config.bos_token_id, config.eos_token_id = 1, 2
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.max_length = 33
    return model


def llama() -> Any:
    """Rotary embeddings, whose buffers are not saved; in half precision."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=100
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


def t5() -> Any:
    """One embedding in three places."""
    config = transformers.T5Config(
        d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, vocab_size=100, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def mixtral() -> Any:
    """Experts, which are single tensors in the file and one in the model."""
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=100,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


def published(origin: Origin, folder: Path, make: Callable[[], Any], **options: Any) -> Model:
    """Save a model as transformers does, publish the folder, and open it."""
    torch.manual_seed(1)
    make().save_pretrained(folder, **options)
    origin.publish(folder, f"org/{make.__name__}@1")
    return hotstart.open(f"org/{make.__name__}@prod", origin=origin.url)


def ties(model: Any) -> set[frozenset[str]]:
    """Return which names stand for one tensor."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(tied) for tied in names.values()}


def assert_same(found: Any, own: Any) -> None:
    """Compare everything of two models: bits, buffers, dtypes, ties, settings."""
    for tensors, expected in (
        (found.state_dict(), own.state_dict()),
        (dict(found.named_parameters()), dict(own.named_parameters())),
        (dict(found.named_buffers()), dict(own.named_buffers())),
    ):
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert tensors[name].dtype == tensor.dtype, name
            assert tensors[name].device == tensor.device, name
            assert torch.equal(tensors[name], tensor), name
    assert ties(found) == ties(own)
    assert found.training is own.training
    assert found.dtype == own.dtype
    assert found.config.to_diff_dict() == own.config.to_diff_dict()
    if own.can_generate():
        assert found.generation_config.to_dict() == own.generation_config.to_dict()


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"num_labels": 5}])
@pytest.mark.parametrize("name", ["AutoModel", "BertForSequenceClassification"])
def test_minilm_is_bit_equal(origin: Origin, name: str, options: dict[str, Any]) -> None:
    """The real MiniLM has the same bits, also cast or with a new head, and gives the same embedding."""
    origin.publish(minilm_folder(), "org/minilm@1")
    model = hotstart.open("org/minilm@prod", origin=origin.url)
    cls = getattr(transformers, name)
    torch.manual_seed(7)
    found = from_pretrained(cls, model, **options)
    torch.manual_seed(7)
    own = cls.from_pretrained(str(minilm_folder()), **options)
    assert_same(found, own)
    assert found.config.name_or_path == "org/minilm@1"
    tokenizer = from_pretrained(transformers.AutoTokenizer, model)
    words = tokenizer("hotstart takes the model download out of a cold start", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(found(**words)[0], own(**words)[0])


@pytest.mark.parametrize("make", [gpt2, llama, t5, mixtral])
@pytest.mark.parametrize("auto", [True, False])
def test_models_of_all_kinds_are_bit_equal(
    origin: Origin, tmp_path: Path, make: Callable[[], Any], auto: bool
) -> None:
    """Ties, unsaved buffers, dtypes, merged tensors and generation settings are transformers' own."""
    model = published(origin, tmp_path / "saved", make)
    own_class = type(make())
    cls = own_class
    if auto:
        cls = transformers.AutoModelForSeq2SeqLM if make is t5 else transformers.AutoModelForCausalLM
    found = from_pretrained(cls, model)
    assert type(found) is own_class
    assert_same(found, own_class.from_pretrained(tmp_path / "saved"))


def test_shards_and_a_subfolder(origin: Origin, tmp_path: Path) -> None:
    """A sharded checkpoint is one model; one in a folder of the version has its configuration from there."""
    model = published(origin, tmp_path / "saved", llama, max_shard_size="20KB")
    assert len(model.selection().files) > 1
    own = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    assert_same(from_pretrained(transformers.AutoModelForCausalLM, model), own)
    llama().save_pretrained(tmp_path / "parts" / "text")
    t5().save_pretrained(tmp_path / "parts" / "other")
    origin.publish(tmp_path / "parts", "org/parts@1")
    named = hotstart.open("org/parts@1/text/model.safetensors", origin=origin.url)
    found = from_pretrained(transformers.AutoModelForCausalLM, named)
    assert_same(found, transformers.LlamaForCausalLM.from_pretrained(tmp_path / "parts" / "text"))


def test_loading_info_and_a_given_configuration(origin: Origin, tmp_path: Path) -> None:
    """What else transformers' from_pretrained takes and returns, this does as well."""
    model = published(origin, tmp_path / "saved", gpt2)
    config = from_pretrained(transformers.AutoConfig, model)
    assert config.n_embd == 32
    options = {"config": config, "output_loading_info": True, "attn_implementation": "eager"}
    found, info = from_pretrained(transformers.AutoModelForCausalLM, model, **options)
    own, expected = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved", **options)
    assert_same(found, own)
    assert info == expected


def test_all_is_of_one_version(origin: Origin, tmp_path: Path, cache: Path) -> None:
    """An alias that moves between two calls changes nothing; weights are not in the cache."""
    model = published(origin, tmp_path / "one", gpt2)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_head=2, n_layer=1)).save_pretrained(
        tmp_path / "two"
    )
    origin.publish(tmp_path / "two", "org/gpt2@2")
    assert from_pretrained(transformers.AutoConfig, model).n_embd == 32
    assert from_pretrained(transformers.AutoModel, model).config.n_embd == 32
    cached = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert cached == {"org/gpt2/1/config.json", "org/gpt2/1/generation_config.json"}


def test_a_failed_load_says_so_and_leaves_no_thread(origin: Origin, tmp_path: Path) -> None:
    """When the sources are lost in the middle, the error is hotstart's, and nothing goes on."""
    published(origin, tmp_path / "saved", gpt2)
    version = Version.read(origin.root, "org/gpt2", "1")
    source = FaultySource(version, dies_after=60_000)
    with pytest.raises(hotstart.AllSourcesFailed):
        from_pretrained(transformers.AutoModelForCausalLM, open_with(version, source))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("hotstart")]


def test_what_transformers_refuses_is_its_own_error(origin: Origin, tmp_path: Path) -> None:
    """A class that does not fit the configuration is transformers' error, and the load is stopped."""
    model = published(origin, tmp_path / "saved", gpt2)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        from_pretrained(transformers.AutoModelForSpeechSeq2Seq, model)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("hotstart")]


def test_the_example_runs(origin: Origin, processes: Processes, cache: Path) -> None:
    """The program in deploy/examples prints the embedding that transformers computes."""
    origin.publish(minilm_folder(), "org/minilm@1")
    environment = {"HOTSTART_ORIGIN": origin.url, "XDG_CACHE_HOME": str(cache), "PYTHONWARNINGS": "default"}
    script = REPOSITORY / "deploy" / "examples" / "transformers" / "embed.py"
    run = processes.start(sys.executable, str(script), "org/minilm", "a sentence", environment=environment)
    printed = run.wait().check().stdout
    own = transformers.AutoModel.from_pretrained(minilm_folder())
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    with torch.no_grad():
        expected = own(**tokenizer("a sentence", return_tensors="pt"))[0].mean(dim=1)[0]
    numbers = " ".join(f"{number:.6f}" for number in expected[:4])
    assert printed == f"org/minilm@1: 384 numbers, {numbers} ...\n"
