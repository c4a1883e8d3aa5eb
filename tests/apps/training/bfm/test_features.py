"""Encoders' features against a second computation; where on the picture each of them lies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate, layer_norm
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from apps.training.bfm.features import (
    Dinov2Features,
    ShapesClipFeatures,
    load_features,
)
from gensift.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14
    )
    place = tmp_path_factory.mktemp("dinov2")
    model = Dinov2Model(config)
    # Of random weights the final norm would be the identity, and nothing would show without it.
    torch.nn.init.normal_(model.layernorm.weight)
    model.save_pretrained(place)
    return place


def second_computation(model: Any, pictures: torch.Tensor, grid: int) -> torch.Tensor:
    """Step by step, from the parts of the network."""
    shown = (pictures - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    shown = interpolate(shown, size=(14 * grid, 14 * grid), mode="bicubic", align_corners=False)
    projection = model.embeddings.patch_embeddings.projection
    patches = projection(shown).flatten(2).transpose(1, 2)
    table = model.embeddings.position_embeddings
    side = round((table.shape[1] - 1) ** 0.5)
    places = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    places = interpolate(places, size=(grid, grid), mode="bicubic", align_corners=False)
    patches = patches + places.permute(0, 2, 3, 1).flatten(1, 2)
    first = model.embeddings.cls_token + table[:, :1]
    hidden = torch.cat([first.expand(len(pictures), -1, -1), patches], dim=1)
    for layer in model.encoder.layer if hasattr(model.encoder, "layer") else model.layers:
        out = layer(hidden)
        hidden = out[0] if isinstance(out, tuple) else out
    norm = model.layernorm
    return layer_norm(hidden, (32,), norm.weight, norm.bias, norm.eps)[:, 1:]


@pytest.mark.parametrize("grid", [3, 4])
def test_dinov2_gives_one_normed_patch_per_token(folder: Path, grid: int) -> None:
    encoder = load_features(str(folder))
    assert encoder is not None and encoder.channels == 32
    pictures = torch.rand(2, 3, 32, 32)
    found = encoder(pictures, grid)
    assert found.shape == (2, grid * grid, 32) and found.dtype == torch.float32
    with torch.no_grad():
        wanted = second_computation(Dinov2Model.from_pretrained(folder).eval(), pictures, grid)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_shapes_clip_gives_the_mean_of_the_patches_under_a_token() -> None:
    encoder = ShapesClipFeatures.load()
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        patches = encoder.model(2 * pictures - 1)[1].transpose(1, 2).reshape(2, -1, 8, 8)
    wanted = avg_pool2d(patches, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(pictures, 4), wanted)
    assert encoder.channels == wanted.shape[-1]
    assert encoder(torch.rand(1, 3, 128, 128), 8).shape == (1, 64, encoder.channels)
    with pytest.raises(ConfigError, match=r"3 x 3 tokens.*8 x 8 features.*--features none"):
        encoder.check_grid(3)


def test_encoders_that_are_not_there_or_another_model(tmp_path: Path) -> None:
    assert load_features("none") is None
    with pytest.raises(ConfigError, match="give dinov2, shapes-clip, none, or a folder"):
        load_features("dinov3")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_features(str(tmp_path))
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is a clip.* model\. Give a folder"):
        Dinov2Features.load(str(tmp_path))
