"""Published Infinity checkpoints compute what they computed, and nothing is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import next_scale as tiny
from helpers import official_layouts as official
from safetensors.torch import save_file

from gensift.errors import ConfigError
from gensift.pipelines.infinity.convert import convert
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.loading import load_pipeline
from gensift.pipelines.next_scale.scales import ScaleSchedule

GRIDS = ((1, 1), (2, 2), (3, 2), (6, 4))
REFERENCE = (15, 10)
WIDTHS = (32, 64)


def load(folder: Path) -> Any:
    return InfinityPipeline.from_pretrained(folder, use_safetensors=True)


def pickled(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def vae(channels: int = 6, **options: Any) -> official.State:
    return official.tokenizer(widths=WIDTHS, channels=channels, family="infinity", **options)


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked": {"chunks": 2},
    "flash": {"flash": True},
    "chunked flash": {"chunks": 4, "flash": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_logits_are_those_of_the_published_layout(tmp_path: Path, layout: str) -> None:
    state = official.infinity_transformer(**LAYOUTS[layout])
    sources = [
        pickled(tmp_path / "2b.pth", state),
        pickled(tmp_path / "vae.pth", {"vae": vae(wrapped=True), "epoch": 3}),
    ]
    reports = convert(sources, tmp_path / "out", allow_pickle=True)
    transformer = load(tmp_path / "out").transformer
    schedule = ScaleSchedule.of(GRIDS, REFERENCE)
    inputs = [torch.randn(2, 6, *grid) for grid in GRIDS[1:]]
    texts = [torch.randn(4, 24), torch.randn(9, 24)]
    conditions = transformer.conditions(texts)
    found = transformer(inputs, schedule, conditions, torch.tensor([0, 1]))
    for row, text in enumerate(texts):
        seen = [grid[row] for grid in inputs]
        wanted = official.infinity_logits(state, GRIDS, REFERENCE, text, seen)
        assert wanted.std() > 0.1
        assert torch.allclose(found[row], wanted, atol=1e-3, rtol=1e-4)
    assert torch.equal(transformer.unconditional_text, state["cfg_uncond"])
    assert reports[0].renamed + len(reports[0].dropped) == len(state)
    assert reports[1].dropped == ("quantize.lfq.mask", "quantizer.lfq.mask")


@pytest.mark.parametrize("wrapped", [False, True])
@torch.no_grad()
def test_the_tokenizer_is_that_of_the_published_layout(tmp_path: Path, wrapped: bool) -> None:
    state = official.tokenizer(widths=(32, 64, 64), channels=6, family="infinity", wrapped=wrapped)
    folder = tmp_path / "in"
    folder.mkdir()
    pickled(folder / "vae.pth", {"vae": state})
    save_file(official.infinity_transformer(), folder / "model.safetensors")
    convert([folder], tmp_path / "out", allow_pickle=True)
    model = load(tmp_path / "out").vae
    assert model.config.patch_size == 1
    pictures = torch.rand(2, 3, 8, 12)
    latents = official.encode(state, pictures * 2 - 1, 3)
    assert torch.allclose(model.encode(pictures), latents, atol=1e-4)
    wanted = official.decode(state, latents, 3)
    assert torch.allclose(model.decode(latents), (wanted.clamp(-1, 1) + 1) / 2, atol=1e-4)


def test_shards_fine_tunings_and_patches(tmp_path: Path) -> None:
    """An 8B folder has shards and an index; its tokens cover 2 x 2 places of the latents."""
    folder = tmp_path / "weights"
    folder.mkdir()
    state = official.infinity_transformer(bits=24, chunks=2)
    keys = sorted(state)
    names = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
    places = {key: names[at % 2] for at, key in enumerate(keys)}
    for name in names:
        save_file({key: state[key] for key in keys if places[key] == name}, folder / name)
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    tokenizer = tmp_path / "vae.safetensors"
    save_file({key: v.clone() for key, v in vae().items()}, tokenizer)
    convert([tmp_path], tmp_path / "out")
    assert load(tmp_path / "out").vae.config.patch_size == 2
    nested = pickled(tmp_path / "tuned.pth", {"epoch": 1, "trainer": {"gpt_fsdp": state}})
    convert([nested, tokenizer], tmp_path / "tuned", allow_pickle=True)
    first, second = (load(tmp_path / name).transformer.state_dict() for name in ("out", "tuned"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    (folder / names[1]).unlink()
    with pytest.raises(ConfigError, match=f"names {names[1]}, which is not there"):
        convert([index, tokenizer], tmp_path / "more")


def test_a_tokenizer_of_another_transformer_is_refused(tmp_path: Path) -> None:
    sources = [
        pickled(tmp_path / "a.pth", official.infinity_transformer(bits=8)),
        pickled(tmp_path / "b.pth", vae(6)),
    ]
    with pytest.raises(ConfigError, match=r"tokens have 8 bits, the tokenizer's latents 6"):
        convert(sources, tmp_path / "out", allow_pickle=True)


@pytest.mark.parametrize(("place", "number"), [("0.module.1", 1), ("1.module.1", 3)])
def test_a_missing_block_is_named(tmp_path: Path, place: str, number: int) -> None:
    state = official.infinity_transformer(chunks=2)
    gone = [key for key in state if key.startswith(f"block_chunks.{place}.")]
    kept = {key: tensor for key, tensor in state.items() if key not in gone}
    sources = [pickled(tmp_path / "a.pth", kept), pickled(tmp_path / "b.pth", vae())]
    with pytest.raises(ConfigError, match=rf"missing, by our names: .*blocks\.{number}\."):
        convert(sources, tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "out").exists()


def test_the_text_encoder_comes_along_or_is_missed(tmp_path: Path) -> None:
    t5 = tmp_path / "t5"
    tiny.text_encoder().save_pretrained(t5)
    tiny.text_tokenizer().save_pretrained(t5)
    folder = tmp_path / "in"
    folder.mkdir()
    state = official.infinity_transformer(text_channels=tiny.TEXT_CHANNELS)
    save_file(state, folder / "a.safetensors")
    pickled(folder / "b.pth", vae())
    convert([folder], tmp_path / "whole", text_encoder=str(t5), allow_pickle=True)
    pipe: Any = load_pipeline(tmp_path / "whole", dtype="float32", device="cpu")
    hidden = pipe.encode_text(["a red circle"])
    assert torch.allclose(hidden[0], tiny.build("infinity").encode_text(["a red circle"])[0])
    convert([folder], tmp_path / "bare", allow_pickle=True)
    bare: Any = load_pipeline(tmp_path / "bare", dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match="has no text encoder; give `text_encoder`"):
        bare("a red circle")
    given = InfinityPipeline.from_pretrained(
        tmp_path / "bare", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    assert torch.equal(given.encode_text(["a red circle"])[0], hidden[0])
    with pytest.raises(ConfigError, match=r"Text encoder '.*/b\.pth' cannot be loaded"):
        convert([folder], tmp_path / "x", text_encoder=str(folder / "b.pth"), allow_pickle=True)
    torch.save(official.infinity_transformer(), folder / "wide.pth")
    sources = [folder / "wide.pth", folder / "b.pth"]
    with pytest.raises(ConfigError, match="encoder has 16 channels, the transformer reads 24"):
        convert(sources, tmp_path / "x", text_encoder=str(t5), allow_pickle=True)
