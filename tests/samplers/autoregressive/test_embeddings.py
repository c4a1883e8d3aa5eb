"""Tokens that pictures are clustered by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from gensift.errors import ConfigError
from gensift.zoo.catalog import model_folder
from rewards.shapes import shapes_clip
from samplers.autoregressive.embeddings import Dinov2Embedding, load_embedding


def dino() -> Dinov2WithRegistersModel:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
        num_register_tokens=4,
    )
    return Dinov2WithRegistersModel(config)


def test_dinov2_gives_its_normalized_patch_tokens_alone() -> None:
    model = dino().eval()
    images = torch.rand(2, 3, 224, 224)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        hidden = model((images - mean) / std).last_hidden_state
    tokens = Dinov2Embedding(model)(images)
    assert tokens.shape == (2, 256, 16)
    # One class token and four registers come first.
    assert torch.allclose(tokens, hidden[:, 5:], atol=1e-5)
    assert torch.allclose(tokens.mean(-1), torch.zeros(2, 256), atol=1e-5)


def test_pictures_of_other_sizes_are_resized() -> None:
    assert Dinov2Embedding(dino())(torch.rand(1, 3, 64, 96)).shape == (1, 256, 16)


def test_a_folder_is_loaded(tmp_path: Path) -> None:
    model = dino()
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    loaded = load_embedding(str(tmp_path), None, "cpu")
    assert torch.allclose(loaded(images), Dinov2Embedding(model)(images), atol=1e-6)


def test_shapes_clip_pools_to_what_it_is_judged_by() -> None:
    """Its tokens are those that the model itself normalizes and projects."""
    reward = shapes_clip()
    images = torch.rand(2, 3, 64, 64)
    tokens = load_embedding("shapes-clip", None, "cpu")(images)
    assert tokens.shape == (2, 64, 128)
    assert not torch.allclose(tokens[0], tokens[1])
    again = load_embedding("shapes-clip", None, "cpu")(images[1:])
    assert torch.allclose(tokens[1:], again, atol=1e-5)
    assert reward.preprocess.size == (64, 64)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nonsense", r"'nonsense' is unknown; give auto, shapes-clip, dinov2"), ("", "is unknown")],
)
def test_unknown_names_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_embedding(spec, None, "cpu")


def test_a_model_of_another_kind_is_refused() -> None:
    folder = str(model_folder("shapes-flux") / "text_encoder_2")
    with pytest.raises(ConfigError, match=r"is a t5, not a DINOv2"):
        load_embedding(folder, None, "cpu")
