from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from helpers.gated_runs import SEEDS
from helpers.tiny_pipelines import FAMILIES, IMAGE_SIDE, build

from gensift.denoising import families
from gensift.denoising.bound import BoundPipeline
from gensift.denoising.families import DenoiserFamily, declare_denoiser
from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.errors import ConfigError, UnsupportedPipelineError
from samplers.diffusion.preview import Previewer

bound = BoundPipeline.of

TOLERANCE = 1e-5


def run(pipe: Any, kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of the pipeline (of a video the middle frame) and the latents they came from."""
    events: list[StepEvent] = []
    with observe_scheduler(pipe.scheduler, events.append):
        images = pipe(**kwargs, output_type="pt", return_dict=False)[0]
    if images.ndim == 5:
        images = images[:, images.shape[1] // 2]
    return images, events[-1].latents[: len(images)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_images", [None, 2])
def test_equals_the_pipelines_own_decode(family: str, max_images: int | None) -> None:
    pipe, call_kwargs = build(family)
    images, latents = run(pipe, call_kwargs(SEEDS[:3]))
    side = IMAGE_SIDE[family]
    previews = Previewer(bound(pipe), side, side, max_images=max_images).decode(latents)
    assert previews.shape == (3, 3, side, side)
    assert previews.dtype == torch.float32
    assert not previews.requires_grad
    assert (previews - images).abs().max() <= TOLERANCE


def test_latents_of_other_height_and_width() -> None:
    pipe, call_kwargs = build("flux")
    images, latents = run(pipe, call_kwargs([0], height=16, width=24))
    previews = Previewer(bound(pipe), 16, 24).decode(latents)
    assert (previews - images).abs().max() <= TOLERANCE
    with pytest.raises(ConfigError, match="24 tokens, but 16 x 16 pixels need 16"):
        Previewer(bound(pipe), 16, 16).decode(latents)


def test_mean_and_std_of_the_vae_config() -> None:
    pipe, call_kwargs = build("sdxl")
    pipe.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.1, 0.9, 2.0, 0.5])
    images, latents = run(pipe, call_kwargs([0, 1]))
    assert (Previewer(bound(pipe), 16, 16).decode(latents) - images).abs().max() <= TOLERANCE


def test_half_precision_vae_is_upcast_and_put_back() -> None:
    pipe, call_kwargs = build("sdxl")
    pipe.vae.to(dtype=torch.float16)
    images, latents = run(pipe, call_kwargs([0, 1]))
    assert (Previewer(bound(pipe), 16, 16).decode(latents) - images).abs().max() <= TOLERANCE
    assert pipe.vae.dtype == torch.float16


def test_vae_is_put_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = build("sdxl")
    pipe.vae.to(dtype=torch.float16)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipe.vae, "decode", fail)
    with pytest.raises(KeyboardInterrupt):
        Previewer(bound(pipe), 16, 16).decode(torch.zeros(1, 4, 8, 8))
    assert pipe.vae.dtype == torch.float16


@pytest.mark.parametrize("family", ["sdxl", "flux", "sd3"])
def test_small_decoder(family: str) -> None:
    pipe, call_kwargs = build(family)
    decoder = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    _, latents = run(pipe, call_kwargs([0, 1]))
    previews = Previewer(bound(pipe), 16, 16, decoder=decoder).decode(latents)
    assert previews.shape == (2, 3, 16, 16)
    assert previews.min() >= 0
    assert previews.max() <= 1
    # The pipeline with the small decoder as its VAE is what the preview must equal.
    pipe.register_modules(vae=decoder)
    images, _ = run(pipe, call_kwargs([0, 1]))
    assert (previews - images).abs().max() <= TOLERANCE


def test_small_decoder_is_refused_for_video() -> None:
    pipe, _ = build("wan")
    with pytest.raises(UnsupportedPipelineError, match="leave `decoder` out"):
        Previewer(bound(pipe), 16, 16, decoder=object())


def test_offloaded_vae() -> None:
    pipe, call_kwargs = build("sd15")
    images, latents = run(pipe, call_kwargs([0, 1]))
    pipe.enable_model_cpu_offload(device="cpu")
    assert (Previewer(bound(pipe), 16, 16).decode(latents) - images).abs().max() <= TOLERANCE


def test_unknown_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_families", {})
    pipe, _ = build("sd3")
    declare_denoiser(
        DenoiserFamily(
            name="odd", denoiser_class="SD3Transformer2DModel", rows=("x",), preview="polar"
        )
    )
    with pytest.raises(UnsupportedPipelineError, match="'polar'; known are packed"):
        Previewer(bound(pipe), 16, 16)


def test_max_images_must_be_positive() -> None:
    pipe, _ = build("sd3")
    with pytest.raises(ConfigError, match="max_images"):
        Previewer(bound(pipe), 16, 16, max_images=0)
