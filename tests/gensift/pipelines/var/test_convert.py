"""Published VAR checkpoints compute what they computed, and nothing is missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import official_layouts as official
from safetensors.torch import save_file

from gensift.errors import ConfigError
from gensift.pipelines.loading import load_pipeline
from gensift.pipelines.next_scale.checkpoints import Checkpoint
from gensift.pipelines.var.convert import PUBLISHED_SCALES, convert, transformer_config
from gensift.pipelines.var.pipeline import VARPipeline

SIDES = (1, 2, 3)
WIDTHS = (32, 64)


def write(folder: Path, transformer: official.State | None = None, **tokenizer: int) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(transformer or official.var_transformer(sides=SIDES), folder / "a.safetensors")
    vae = official.tokenizer(widths=WIDTHS, channels=4, family="var", **tokenizer)
    save_file(vae, folder / "b.safetensors")
    return folder


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_published_layout(tmp_path: Path, shared: bool) -> None:
    state = official.var_transformer(sides=SIDES, heads=3, head_dim=16, shared=shared)
    reports = convert([write(tmp_path / "in", state)], tmp_path / "out", scales=SIDES)
    pipe = VARPipeline.from_pretrained(tmp_path / "out", use_safetensors=True)
    transformer = pipe.transformer
    assert transformer.config.has_shared_modulation is shared
    inputs = [torch.randn(2, 4, side, side) for side in SIDES[1:]]
    conditions = transformer.conditions(torch.tensor([1, 5]))
    found = transformer(inputs, pipe.schedule(), conditions, torch.tensor([0, 1]))
    for row, label in enumerate((1, 5)):
        wanted = official.var_logits(state, SIDES, label, [grid[row] for grid in inputs])
        assert wanted.std() > 0.1
        assert torch.allclose(found[row], wanted, atol=1e-3, rtol=1e-4)
    first, second = reports
    assert first.renamed + len(first.dropped) == len(state)
    assert first.dropped == (
        "attn_bias_for_masking", "blocks.0.attn.zero_k_bias", "blocks.1.attn.zero_k_bias", "lvl_1L"
    )  # fmt: skip
    assert first.parameters == sum(p.numel() for p in transformer.parameters())
    assert second.dropped == ("quantize.ema_vocab_hit_SV",) and second.dtype == "float32"
    assert not [file for file in tmp_path.rglob("*") if file.suffix == ".bin"]


@torch.no_grad()
def test_the_tokenizer_is_that_of_the_published_layout(tmp_path: Path) -> None:
    state = official.tokenizer(widths=(32, 32, 64), channels=4, family="var")
    folder = write(tmp_path / "in")
    save_file(state, folder / "b.safetensors")
    convert([folder], tmp_path / "out", scales=SIDES)
    vae = VARPipeline.from_pretrained(tmp_path / "out", use_safetensors=True).vae
    pictures = torch.rand(2, 3, 8, 12)
    latents = official.encode(state, pictures * 2 - 1, 3)
    assert torch.allclose(vae.encode(pictures), latents, atol=1e-4)
    wanted = official.decode(state, latents, 3)
    assert torch.allclose(vae.decode(latents), (wanted.clamp(-1, 1) + 1) / 2, atol=1e-4)
    assert wanted.std() > 0.05
    assert torch.equal(vae.codebook.weight, state["quantize.embedding.weight"])
    for at, phi in enumerate(vae.phi):
        assert torch.equal(phi.weight, state[f"quantize.quant_resi.qresi_ls.{at}.weight"])


@pytest.mark.parametrize("sides", PUBLISHED_SCALES)
def test_published_scales_are_known_by_their_counts(sides: tuple[int, ...]) -> None:
    state = official.var_transformer(sides=sides, depth=1, heads=1)
    found = transformer_config(state, Checkpoint(Path("x"), frozenset(state), lambda: state), None)
    assert tuple(found["scales"]) == sides
    assert (found["num_layers"], found["num_attention_heads"]) == (1, 1)
    assert (found["num_classes"], found["codebook_size"], found["latent_channels"]) == (5, 24, 4)


def test_other_scales_have_to_be_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"14 positions on 3 scales, which no published.*--scale"):
        convert([folder], tmp_path / "out")
    with pytest.raises(ConfigError, match="which the given scales do not have"):
        convert([folder], tmp_path / "out", scales=(1, 2, 4))
    assert not (tmp_path / "out").exists()


def test_each_key_that_is_wrong_is_named(tmp_path: Path) -> None:
    state = official.var_transformer(sides=SIDES)
    del state["blocks.1.ffn.fc2.bias"]
    state["blocks.0.extra"] = torch.zeros(2)
    state["head.bias"] = torch.zeros(25)
    folder = write(tmp_path / "in", state)
    with pytest.raises(ConfigError) as caught:
        convert([folder], tmp_path / "out", scales=SIDES)
    message = str(caught.value)
    assert "\n" not in message and "3 problems" in message
    assert "unknown: blocks.0.extra" in message
    assert "missing, by our names: blocks.1.feed_forward.outer.bias" in message
    assert "head.bias is 25 instead of 24" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["word_embed.weight", "pos_1LC", "head.weight"])
def test_a_key_that_the_config_needs_is_named(tmp_path: Path, key: str) -> None:
    state = official.var_transformer(sides=SIDES)
    del state[key]
    with pytest.raises(ConfigError, match=f"missing: {key}"):
        convert([write(tmp_path / "in", state)], tmp_path / "out", scales=SIDES)


def test_shapes_that_make_no_model_are_refused(tmp_path: Path) -> None:
    state = official.var_transformer(sides=SIDES)
    state["word_embed.weight"] = torch.zeros(4)
    with pytest.raises(ConfigError, match=r"word_embed.weight is 4 and should have 2 dimensions"):
        convert([write(tmp_path / "in", state)], tmp_path / "out", scales=SIDES)
    folder = write(tmp_path / "in")
    vae = official.tokenizer(widths=WIDTHS, channels=4, family="var")
    vae["encoder.down.0.block.0.conv1.bias"] = torch.zeros(33)
    save_file(vae, folder / "b.safetensors")
    with pytest.raises(ConfigError, match="its shapes make no model: num_channels"):
        convert([folder], tmp_path / "out", scales=SIDES)


def test_what_is_not_there_or_there_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    with pytest.raises(ConfigError, match="holds no checkpoint of a tokenizer"):
        convert([folder / "a.safetensors"], tmp_path / "out", scales=SIDES)
    with pytest.raises(ConfigError, match="is neither a file nor a folder"):
        convert([tmp_path / "nowhere"], tmp_path / "out")
    save_file(official.var_transformer(), folder / "c.safetensors")
    with pytest.raises(ConfigError, match=r"2 checkpoints of a transformer: .*a\.saf.*c\.saf"):
        convert([folder], tmp_path / "out", scales=SIDES)
    convert([folder / "b.safetensors", folder / "a.safetensors"], tmp_path / "out", scales=SIDES)
    with pytest.raises(ConfigError, match="is not empty"):
        convert([folder], tmp_path / "out", scales=SIDES)


def test_pickles_and_precision(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    torch.save(official.var_transformer(sides=SIDES), folder / "var.pth")
    vae = official.tokenizer(widths=WIDTHS, channels=4, family="var")
    torch.save(vae, folder / "vae.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigError, match=r"is a pickle.*--allow-pickle"):
        convert([folder], tmp_path / "out", scales=SIDES)
    with pytest.raises(ConfigError, match=r"is a pickle.*--allow-pickle"):
        convert([folder / "var.pth"], tmp_path / "out", scales=SIDES)
    found = convert([folder], tmp_path / "out", scales=SIDES, allow_pickle=True, dtype="bfloat16")
    assert [report.dtype for report in found] == ["bfloat16", "bfloat16"]
    pipe = load_pipeline(tmp_path / "out", dtype="float32", device="cpu")
    assert isinstance(pipe, VARPipeline)
    assert sorted(tmp_path.iterdir()) == [folder, tmp_path / "out"]
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "VARPipeline"


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    folder = tmp_path / "in"
    folder.mkdir()
    torch.save({"x": Harm()}, folder / "var.pth")
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
        convert([folder], tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def trainer_file(path: Path, state: official.State) -> Path:
    """A file as VAR's own trainer writes: models, an optimizer and settings."""
    vae = official.tokenizer(widths=WIDTHS, channels=4, family="var")
    trained = {"var_wo_ddp": state, "vae_local": vae, "var_opt": {"optimizer": {"state": {}}}}
    content = {"epoch": 3, "iter": 7, "trainer": {"config": {"lr": 1.0}, **trained}, "args": {}}
    torch.save(content, path)
    return path


def test_a_checkpoint_of_the_trainer_holds_both_parts(tmp_path: Path) -> None:
    state = official.var_transformer(sides=SIDES)
    file = trainer_file(tmp_path / "ar-ckpt-last.pth", state)
    first, second = convert([file], tmp_path / "out", scales=SIDES, allow_pickle=True)
    assert (first.part, second.part) == ("transformer", "tokenizer")
    plain = VARPipeline.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert torch.equal(plain.transformer.state_dict()["head.weight"], state["head.weight"])
    # Where the tokenizer's own file is given, too, that counts.
    vae = tmp_path / "vae.safetensors"
    save_file(official.tokenizer(widths=WIDTHS, channels=4, family="var"), vae)
    _, second = convert([file, vae], tmp_path / "two", scales=SIDES, allow_pickle=True)
    assert second.source == str(vae)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_checkpoint_without_its_last_blocks_is_refused(tmp_path: Path, depth: int) -> None:
    state = official.var_transformer(sides=SIDES, depth=depth, heads=3)
    with pytest.raises(ConfigError, match=rf"missing: blocks\.{depth}\.attn\.proj\.weight"):
        convert([write(tmp_path / "in", state)], tmp_path / "out", scales=SIDES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=rf"{name}' is empty; fetch it again"):
        convert([tmp_path / name], tmp_path / "out", allow_pickle=True)
