"""Which decoder early estimates get, and that the zoo's shows what the VAE shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import build

from gensift.denoising.bound import BoundPipeline
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.loading import load_pipeline, load_preview_decoder
from gensift.zoo.shapes.grammar import parse
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.world import render
from samplers.diffusion.preview import Previewer

bound = BoundPipeline.of


def save_decoder(folder: Path, channels: int = 4) -> str:
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder)
    return str(folder)


def test_a_folder_is_read_with_the_pipelines_precision(tmp_path: Path) -> None:
    pipe, _ = build("sdxl")
    location = save_decoder(tmp_path)
    decoder = load_preview_decoder(pipe, location)
    assert isinstance(decoder, diffusers.AutoencoderTiny)
    assert decoder.dtype == torch.float32 and not decoder.training
    assert load_preview_decoder(pipe, location) is decoder
    pipe.vae.to(torch.bfloat16)
    assert load_preview_decoder(pipe, location).dtype == torch.bfloat16


def test_vae_means_none_and_auto_that_of_the_model_folder() -> None:
    pipe, _ = build("sdxl")
    assert load_preview_decoder(pipe, "vae") is None
    assert load_preview_decoder(pipe, "auto") is None
    zoo = load_pipeline("shapes-flux", dtype="float32", device="cpu")
    assert load_preview_decoder(zoo, "vae") is None
    assert isinstance(load_preview_decoder(zoo, "auto"), diffusers.AutoencoderTiny)


def test_auto_takes_nothing_from_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_decoder(tmp_path / "preview_decoder")
    monkeypatch.chdir(tmp_path)
    assert load_preview_decoder(build("sdxl").pipe, "auto") is None


def test_a_decoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    location = save_decoder(tmp_path, channels=16)
    with pytest.raises(ConfigError, match="16 channels, those of StableDiffusionXLPipeline have 4"):
        load_preview_decoder(build("sdxl").pipe, location)


@pytest.mark.parametrize("content", [None, "{}", '{"_class_name": "AutoencoderKL"}', "{"])
def test_what_is_no_decoder_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"cannot be loaded: .* Give a folder or hub id"):
        load_preview_decoder(build("sdxl").pipe, str(tmp_path))


@pytest.mark.parametrize("family", ["qwen-image", "wan"])
def test_families_without_a_tiny_decoder_refuse_one(family: str, tmp_path: Path) -> None:
    """Their VAEs do not even say how many latent channels they have."""
    pipe, _ = build(family)
    with pytest.raises((ConfigError, UnsupportedPipelineError)):
        Previewer(
            bound(pipe),
            16,
            16,
            decoder=load_preview_decoder(pipe, save_decoder(tmp_path)),
        )


def test_the_zoos_decoder_shows_what_the_vae_shows() -> None:
    pipe: Any = load_pipeline("shapes-flux", dtype="float32", device="cpu")
    rng = np.random.default_rng(0)
    prompts = ["a red circle", "three green crosses", "a blue square left of a yellow triangle"]
    scenes = np.stack([render(scene_for(parse(prompt), rng)) for prompt in prompts])
    images = torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 255
    config = pipe.vae.config
    with torch.no_grad():
        latents = pipe.vae.encode(images * 2 - 1).latent_dist.mode()
    latents = (latents - (config.shift_factor or 0.0)) * config.scaling_factor
    packed = pipe._pack_latents(latents, *latents.shape)
    decoder = load_preview_decoder(pipe, "auto")
    tiny = Previewer(bound(pipe), 64, 64, decoder=decoder).decode(packed)
    full = Previewer(bound(pipe), 64, 64).decode(packed)
    # Mean squared errors: 0.003 is 25 dB.
    assert (full - images).square().mean() < 0.003
    assert (tiny - full).square().mean() < 0.003
    assert (tiny - full.roll(1, 0)).square().mean() > 0.01
