"""Published LLaDA folders load as they are, strictly, and none of their code is run."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import llada_checkpoints as published
from helpers.llada import transformer
from helpers.llada_checkpoints import VOCABULARY, write_checkpoint
from safetensors.torch import load_file, save_file

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.loading import is_llada_checkpoint

IDS = {token: index for index, token in enumerate(VOCABULARY)}
END, MASK, EOT = (IDS[token] for token in (published.END, published.MASK, published.EOT))


def model(**options: Any) -> Any:
    ids = {"mask_token_id": MASK, "eos_token_id": END, "pad_token_id": END}
    return transformer(2, vocab_size=len(VOCABULARY), **ids, **options)


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """Reading a shard collects garbage, which takes a second with all that tests import."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "LLaDA", model())


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file, or the tensors of a shard."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))
        return
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    "options",
    [{}, {"n_kv_heads": 4}, {"weight_tying": True}, {"embedding_size": 48}, {"rms_norm_eps": 0.2}],
)
@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_it_loads_as_published(tmp_path: Path, count: int, options: dict[str, Any]) -> None:
    original = model(**options)
    folder = write_checkpoint(tmp_path / "LLaDA", original, shards=count)
    pipe: Any = gensift.load_pipeline(folder)
    assert type(pipe) is LLaDAPipeline and not pipe.transformer.training
    state, loaded = original.state_dict(), pipe.transformer.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    tokens = torch.tensor([[3, 9, 12, MASK, MASK]])
    wanted = original(tokens).logits
    assert torch.equal(pipe.transformer(tokens).logits, wanted)


def test_one_file_without_an_index_will_do(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "LLaDA", model(), shards=1)
    shards(folder)[0].rename(folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    pipe: Any = gensift.load_pipeline(folder)
    assert torch.equal(pipe.transformer.embed(torch.tensor([4])), model().embed(torch.tensor([4])))


def test_it_generates(folder: Path, tmp_path: Path) -> None:
    pipe: Any = gensift.load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    plain = LLaDAPipeline(model(), pipe.tokenizer)
    prompt = "w1 w2 w3"
    rows = pipe.encode(prompt)
    assert rows.tokens[0].tolist() == [
        IDS[token]
        for token in (
            published.START, published.OPEN, "user", published.CLOSE, "w1", "w2", "w3",
            published.EOT, published.OPEN, "assistant", published.CLOSE,
        )
    ]  # fmt: skip
    options: dict[str, Any] = {"gen_length": 8, "num_inference_steps": 8}
    found = pipe(prompt, **options)
    assert found.sequences.shape == (1, 8) and MASK not in found.sequences
    wanted = plain(input_ids=rows.tokens, **options)
    assert torch.equal(found.sequences, wanted.sequences) and found.texts == wanted.texts
    pipe.save_pretrained(tmp_path / "saved")
    again: Any = gensift.load_pipeline(tmp_path / "saved")
    assert torch.equal(again(prompt, **options).sequences, found.sequences)


def test_special_tokens_are_known_though_only_added(folder: Path) -> None:
    """The published files list the end of a turn and the mask among the added tokens only."""
    pipe: Any = gensift.load_pipeline(folder)
    assert published.EOT not in pipe.tokenizer.all_special_tokens
    assert pipe.mask_token_id == MASK
    assert pipe.stop_ids == (END, EOT)
    assert set(pipe.special_ids) == {IDS[token] for token in published.SPECIAL}
    assert pipe.context_length == 64


def test_no_code_of_the_folder_is_run(folder: Path) -> None:
    """Its modules would end the process."""
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "tokenizer_config.json").read_text())["trust_remote_code"]
    gensift.load_pipeline(folder)


def test_it_is_read_in_the_dtype_asked_for(folder: Path) -> None:
    pipe: Any = gensift.load_pipeline(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {torch.bfloat16}
    assert pipe("w1", gen_length=4, num_inference_steps=2).sequences.shape == (1, 4)


def test_what_is_one(folder: Path, tmp_path: Path) -> None:
    assert is_llada_checkpoint(folder)
    other = tmp_path / "other"
    other.mkdir()
    assert not is_llada_checkpoint(other)
    for content in ('{"model_type": "llama"}', "[]", "{"):
        (other / "config.json").write_text(content)
        assert not is_llada_checkpoint(other)
    with pytest.raises(ConfigError, match=r"is no diffusers pipeline: .* no model_index.json"):
        gensift.load_pipeline(other)


# --- what is wrong is named -----------------------------------------------------------------------

NORM = "model.transformer.blocks.0.attn_norm.weight"


def _damage(name: str, folder: Path) -> None:
    first, second = shards(folder)
    holds = first if NORM in load_file(first) else second
    config, index = folder / "config.json", folder / "model.safetensors.index.json"
    if name == "a key is missing":
        change(holds, lambda tensors: tensors.pop(NORM))
        change(index, lambda content: content["weight_map"].pop(NORM))
    elif name == "a key too many":
        change(second, lambda tensors: tensors.update({"model.transformer.bias": torch.ones(2)}))
    elif name == "another shape":
        change(holds, lambda tensors: tensors.update({NORM: torch.ones(7)}))
    elif name == "another size in the config":
        change(config, lambda content: content.update(mlp_hidden_size=41))
    elif name == "more layers in the config":
        change(config, lambda content: content.update(n_layers=3))
    elif name == "fewer layers in the config":
        change(config, lambda content: content.update(n_layers=1))
    elif name == "a shard is missing":
        second.unlink()
    elif name == "a shard is truncated":
        second.write_bytes(second.read_bytes()[:-50])
    elif name == "a shard is cut in its header":
        second.write_bytes(second.read_bytes()[:20])
    elif name == "an empty shard":
        second.write_bytes(b"")
    elif name == "no weights":
        for file in (first, second, index):
            file.unlink()
    elif name == "a damaged index":
        index.write_text("{")
    elif name == "another index":
        index.write_text("{}")
    elif name == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    elif name == "heads that do not divide":
        change(config, lambda content: content.update(n_heads=5))
    else:
        key, value = OPTIONS_OF_OTHERS[name]
        change(config, lambda content: content.update({key: value}))


OPTIONS_OF_OTHERS = {
    "alibi": ("alibi", True),
    "gelu": ("activation_type", "gelu"),
    "swiglu": ("activation_type", "swiglu"),
    "biases": ("include_bias", True),
    "biases of queries": ("include_qkv_bias", True),
    "layer norm": ("layer_norm_type", "default"),
    "sequential blocks": ("block_type", "sequential"),
    "norms in attention": ("attention_layer_norm", True),
    "no rotation": ("rope", False),
    "scaled logits": ("scale_logits", True),
    "a norm of the input": ("input_emb_norm", True),
}
DAMAGES = {
    "a key is missing": rf"lacks '{NORM}'; it is no complete LLaDA checkpoint",
    "a key too many": r"holds 'model\.transformer\.bias', which LLaDA does not have",
    "another shape": rf"holds '{NORM}' of shape \(7,\), but its config\.json asks for \(24,\)",
    "another size in the config": r"holds '.*' of shape \(40, 24\), but .* asks for \(41, 24\)",
    "more layers in the config": r"lacks 'model\.transformer\.blocks\.2\.",
    "fewer layers in the config": r"holds 'model\.transformer\.blocks\.1\..*does not have",
    "a shard is missing": r"model-00002-of-00002\.safetensors is missing; fetch",
    "a shard is truncated": r"model-00002-of-00002\.safetensors is damaged",
    "a shard is cut in its header": r"model-00002-of-00002\.safetensors is damaged",
    "an empty shard": r"model-00002-of-00002\.safetensors is damaged",
    "no weights": r"model\.safetensors is missing; fetch the checkpoint again",
    "a damaged index": r"model\.safetensors\.index\.json",
    "another index": r"model\.safetensors\.index\.json",
    "no tokenizer": r"The tokenizer in .* cannot be loaded: .* Fetch tokenizer\.json",
    "heads that do not divide": "d_model 24 is no multiple of n_heads 5",
    **{name: rf"says {key} = .*is built for" for name, (key, _) in OPTIONS_OF_OTHERS.items()},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_one_line(name: str, folder: Path) -> None:
    _damage(name, folder)
    with pytest.raises(ConfigError, match=DAMAGES[name]) as caught:
        gensift.load_pipeline(folder)
    assert "\n" not in str(caught.value)
