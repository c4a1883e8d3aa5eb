"""A tiny open_clip model with random weights, in open_clip's own folder layout."""

import json

import pytest
import torch
from safetensors.torch import save_file

from apps.training.zoo.vocabulary import build_clip_tokenizer

CONTEXT = 16


def model_config(folder, **extra):
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 8,
            "width": 32,
            "head_width": 16,
            "layers": 2,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(build_clip_tokenizer()),
            "hf_tokenizer_name": str(folder),
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
        **extra,
    }


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    from open_clip.model import CLIP

    folder = tmp_path_factory.mktemp("tiny-clip")
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
    config = {"model_cfg": model_config(folder), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(CLIP(**config["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors")
    build_clip_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_config():
    return model_config


@pytest.fixture
def pictures():
    """Three smooth 32x32 pictures with exact 8-bit values."""
    coarse = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return (smooth * 255).round() / 255
