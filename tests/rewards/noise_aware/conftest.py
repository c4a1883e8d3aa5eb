"""The four base rewards with tiny random networks."""

import json

import pytest
import torch
from helpers.noise_aware import brightness_reward, inverted_recording
from open_clip import factory
from open_clip.model import CLIP
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from apps.training.zoo.vocabulary import build_clip_tokenizer
from rewards.blip import BlipSizes
from rewards.hpsv2 import load_hpsv2
from rewards.imagereward import ImageRewardModel, load_imagereward
from rewards.open_clip_score import load_clip_score
from rewards.pickscore import load_pickscore

BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "two", "blue"]
BLIP = BlipSizes(
    image_size=32,
    patch_size=8,
    image_width=48,
    image_layers=1,
    image_heads=4,
    width=32,
    layers=1,
    heads=2,
    inner_width=64,
    vocab_size=len(BERT_WORDS) + 2,
    max_positions=40,
)
BASES = ("clip-score", "pickscore", "hpsv2", "imagereward")


def _clip_score(clip_folder, folder, monkeypatch, tiny_config):
    return load_clip_score(str(clip_folder))


def _pickscore(clip_folder, folder, monkeypatch, tiny_config):
    tokenizer = build_clip_tokenizer()
    tokenizer.save_pretrained(folder)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    marks = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, **marks}
    config = CLIPConfig(
        text_config={**shared, "num_attention_heads": 2, **text},
        vision_config={**shared, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    return load_pickscore(str(folder), str(folder))


def _hpsv2(clip_folder, folder, monkeypatch, tiny_config):
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny-8", tiny_config(clip_folder))
    save_file(CLIP(**tiny_config(clip_folder)).state_dict(), folder / "hps.safetensors")
    return load_hpsv2(str(folder / "hps.safetensors"), architecture="Tiny-8")


def _imagereward(clip_folder, folder, monkeypatch, tiny_config):
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(ImageRewardModel(BLIP).state_dict(), folder / "ImageReward.safetensors")
    return load_imagereward(str(folder), str(folder), sizes=BLIP)


@pytest.fixture
def base_reward(request, clip_folder, tmp_path, monkeypatch, tiny_config):
    """Use as `@pytest.mark.parametrize("base_reward", BASES, indirect=True)`."""
    folder = tmp_path / "base"
    folder.mkdir()
    builders = {
        "clip-score": _clip_score,
        "pickscore": _pickscore,
        "hpsv2": _hpsv2,
        "imagereward": _imagereward,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builders[request.param](clip_folder, folder, monkeypatch, tiny_config)


@pytest.fixture
def recording(tmp_path):
    return inverted_recording(tmp_path / "recording", brightness_reward())
