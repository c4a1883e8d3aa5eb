"""Rows per candidate and step, proven by counting what the denoiser really runs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from helpers.tiny_models import unet
from helpers.tiny_pipelines import FAMILIES, build, text

from gensift.denoising.bound import BoundPipeline, num_steps_of
from gensift.errors import UnsupportedPipelineError
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.guidance import guidance_argument, guidance_rows
from samplers.diffusion.row_gate import LiveRows

SEEDS = (0, 1, 2)
STEPS = 3
TRUE_CFG = ("flux", "flux-true-cfg", "qwen-image")


def bound(pipe: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline call, defaults included."""
    call = inspect.signature(type(pipe).__call__).bind(pipe, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def counted_rows(pipe: Any, kwargs: dict[str, Any]) -> float:
    """Denoiser rows per candidate and scheduler step of a real call."""
    with gate_denoisers(BoundPipeline.of(pipe), LiveRows(len(SEEDS))) as gates:
        pipe(**kwargs, output_type="latent")
    return sum(gate.rows_run for gate in gates) / len(SEEDS) / num_steps_of(pipe)


def assert_rows(pipe: Any, kwargs: dict[str, Any], expected: int) -> None:
    assert counted_rows(pipe, kwargs) == expected
    assert guidance_rows(pipe, bound(pipe, kwargs)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_the_guidance_of_a_usual_call(family: str) -> None:
    pipe, call_kwargs = build(family)
    kwargs = call_kwargs(SEEDS, num_inference_steps=STEPS)
    assert_rows(pipe, kwargs, 1 if family == "flux" else 2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.01])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_at_the_threshold_of_guidance(family: str, scale: float) -> None:
    pipe, call_kwargs = build(family)
    name = "true_cfg_scale" if family in TRUE_CFG else "guidance_scale"
    kwargs = call_kwargs(SEEDS, num_inference_steps=STEPS, **{name: scale})
    threshold = 0.0 if family == "z-image" else 1.0
    assert_rows(pipe, kwargs, 2 if scale > threshold and family != "flux" else 1)


@pytest.mark.parametrize("family", ["flux-true-cfg", "qwen-image"])
def test_a_true_scale_without_anything_negative_does_not_guide(family: str) -> None:
    pipe, call_kwargs = build(family)
    kwargs = call_kwargs(SEEDS, num_inference_steps=STEPS, true_cfg_scale=5.0)
    assert_rows(pipe, {k: v for k, v in kwargs.items() if not k.startswith("negative")}, 1)


def test_the_distilled_scale_of_flux_adds_no_rows() -> None:
    pipe, call_kwargs = build("flux")
    assert_rows(pipe, call_kwargs(SEEDS, num_inference_steps=STEPS, guidance_scale=30.0), 1)


def test_a_negative_prompt_given_as_text_counts() -> None:
    pipe, call_kwargs = build("flux")
    negative = text(SEEDS, 7, 32), text(SEEDS, 16), torch.zeros(7, 3)
    positive = text(SEEDS, 7, 32, salt=1), text(SEEDS, 16, salt=1), torch.zeros(7, 3)
    pipe.encode_prompt = lambda prompt, **_: negative if prompt == "" else positive
    kwargs = call_kwargs(SEEDS, num_inference_steps=STEPS, negative_prompt="", true_cfg_scale=2.0)
    assert_rows(pipe, kwargs, 2)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_consistency_models_take_the_scale_as_an_embedding(family: str) -> None:
    pipe, call_kwargs = build(family)
    extra = {}
    if family == "sdxl":
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
            "use_linear_projection": True,
        }
    pipe.unet = unet(time_cond_proj_dim=8, **extra)
    assert_rows(pipe, call_kwargs(SEEDS, num_inference_steps=STEPS, guidance_scale=8.0), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guidance_argument_is_the_keyword_that_changes_the_picture(family: str) -> None:
    pipe, call_kwargs = build(family)
    name = guidance_argument(pipe)
    weak, strong = (
        pipe(
            **call_kwargs(SEEDS, num_inference_steps=STEPS, **{name: scale}),
            output_type="pt",
            return_dict=False,
        )[0]
        for scale in (1.5, 6.0)
    )
    assert float((weak - strong).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("family", "has_embedding", "expected"),
    [
        ("flux", True, "guidance_scale"),
        ("flux", False, "true_cfg_scale"),
        ("qwen-image", False, "true_cfg_scale"),
        ("qwen-image", True, "guidance_scale"),
        ("sd15", False, "guidance_scale"),
        ("z-image", False, "guidance_scale"),
    ],
)
def test_guidance_distilled_models_are_steered_by_their_own_scale(
    family: str, has_embedding: bool, expected: str
) -> None:
    pipe, _ = build(family)
    denoiser = pipe.unet if family == "sd15" else pipe.transformer
    denoiser.register_to_config(guidance_embeds=has_embedding)
    assert guidance_argument(pipe) == expected


def test_a_pipeline_without_a_known_denoiser_is_refused() -> None:
    with pytest.raises(UnsupportedPipelineError, match="has no denoiser"):
        guidance_rows(object(), {})
