"""The recipe of shapes-flux: its loss by hand, its article, a round trip of what it publishes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline

import gensift
from apps.training.zoo import shapes_flux, shapes_latents
from apps.training.zoo.shapes_flux import (
    DEFAULTS,
    FlowMatchingLoss,
    PromptTokens,
    build_pipeline,
    pack,
    publish,
    share_article,
)


@pytest.fixture
def vae():
    return gensift.load_pipeline("shapes-flux").vae


def test_the_loss_is_the_error_of_the_velocity(vae) -> None:
    pipe = build_pipeline(vae)
    tokens = PromptTokens.of(pipe, ["a red circle", "two blue squares"])
    data, noise = torch.randn(2, 16, 64), torch.randn(2, 16, 64)
    sigma = torch.tensor([0.3, 0.8])
    loss = FlowMatchingLoss(pipe)(data, noise, sigma, tokens.clip[:2], tokens.t5[:2])
    embeds, pooled, text_ids = pipe.encode_prompt(
        ["a red circle", "two blue squares"], None, max_sequence_length=12
    )
    velocity = pipe.transformer(
        hidden_states=(1 - sigma[:, None, None]) * data + sigma[:, None, None] * noise,
        timestep=sigma,
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
    ).sample
    assert loss.item() == pytest.approx((velocity - (noise - data)).square().mean().item(), 1e-5)


def test_packing_is_what_the_pipeline_unpacks() -> None:
    latents = torch.randn(3, 16, 8, 8)
    unpack = shapes_flux.FluxPipeline._unpack_latents
    assert torch.equal(unpack(pack(latents), 64, 64, 8), latents)


def test_an_is_read_as_a(vae) -> None:
    pipe = build_pipeline(vae)
    tokens = PromptTokens.of(pipe, ["an orange cross", "a orange cross"])
    assert torch.equal(tokens.clip[0], tokens.clip[1])
    assert torch.equal(tokens.t5[0], tokens.t5[1])

    before = pipe.encode_prompt("an orange cross", None, max_sequence_length=12)
    share_article(pipe)
    after = pipe.encode_prompt("an orange cross", None, max_sequence_length=12)
    wanted = pipe.encode_prompt("a orange cross", None, max_sequence_length=12)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(after[0], wanted[0]) and torch.equal(after[1], wanted[1])


def test_what_is_published_loads_as_it_was_trained(tmp_path: Path, vae, monkeypatch) -> None:
    monkeypatch.setattr(shapes_flux, "shapes_vae", SimpleNamespace(train=lambda folder: vae))
    monkeypatch.setattr(
        shapes_flux,
        "encode_scenes",
        lambda vae, cache: shapes_latents.encode_scenes(vae, cache, count=64),
    )
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(shapes_flux, "BATCH", 8)
    finished = publish(tmp_path, steps=2)

    pipe = DiffusionPipeline.from_pretrained(finished)
    assert gensift.call_defaults(pipe) == DEFAULTS
    trained = torch.load(tmp_path / "transformer" / "checkpoint.pt", weights_only=True)["average"]
    for name, value in pipe.transformer.state_dict().items():
        assert torch.allclose(value, trained[f"transformer.{name}"], atol=2e-3, rtol=2e-3), name
    again = publish(tmp_path, steps=2)  # finished training is not done again
    assert again == finished
