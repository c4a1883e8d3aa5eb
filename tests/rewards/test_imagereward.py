import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from gensift.errors import ConfigError
from rewards.blip import BlipSizes
from rewards.imagereward import ImageRewardModel, load_imagereward
from rewards.registry import load_reward

WORDS = ["a", "red", "blue", "circle", "square", "left", "of", "##s"]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PROMPTS = ["a red circle", "blue squares", "a red circle left of a blue square"]
SIZES = BlipSizes(
    image_size=32,
    patch_size=8,
    image_width=48,
    image_layers=2,
    image_heads=4,
    width=32,
    layers=2,
    heads=2,
    inner_width=64,
    vocab_size=len(MARKS) + len(WORDS) + 2,
    max_positions=40,
)
MEAN, STD = 0.16717362830052426, 1.0333394966054072


def published_keys(image_layers, layers):
    """Keys of the published checkpoint that the score depends on."""
    both = [f"visual_encoder.{name}" for name in ("patch_embed.proj", "norm")]
    for i in range(image_layers):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        both += [f"visual_encoder.blocks.{i}.{part}" for part in parts]
    for i in range(layers):
        for kind in ("attention", "crossattention"):
            parts = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
            both += [f"text_encoder.encoder.layer.{i}.{kind}.{part}" for part in parts]
        parts = ("intermediate.dense", "output.dense", "output.LayerNorm")
        both += [f"text_encoder.encoder.layer.{i}.{part}" for part in parts]
    both.append("text_encoder.embeddings.LayerNorm")
    keys = {f"blip.{name}.{kind}" for name in both for kind in ("weight", "bias")}
    keys |= {f"blip.visual_encoder.{name}" for name in ("cls_token", "pos_embed")}
    keys |= {
        f"blip.text_encoder.embeddings.{name}_embeddings.weight" for name in ("word", "position")
    }
    return keys | {f"mlp.layers.{i}.{kind}" for i in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random tiny checkpoint in the published layout, and a tokenizer laid out as BERT's."""
    path = tmp_path_factory.mktemp("tiny-imagereward")
    (path / "vocab.txt").write_text("\n".join(MARKS + WORDS))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    state = ImageRewardModel(SIZES).state_dict()
    state = {key: value + 0.2 * torch.randn(value.shape) for key, value in state.items()}
    state["blip.vision_proj.weight"] = torch.zeros(256, 48)  # of the training, without use
    state["blip.text_proj.bias"] = torch.zeros(256)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, path / "ImageReward.pt")
    save_file(state, path / "weights.safetensors")
    return path


def load(folder, file="weights.safetensors", **options):
    return load_reward(
        "imagereward", checkpoint=str(folder / file), tokenizer=str(folder), sizes=SIZES, **options
    )


@pytest.fixture(scope="module")
def reward(folder):
    return load(folder)


def transformers_vision(state):
    config = BlipVisionConfig(
        hidden_size=48,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    renamed = {}
    for key, value in state.items():
        if not key.startswith("blip.visual_encoder."):
            continue
        key = key.removeprefix("blip.visual_encoder.")
        for old, new in (
            ("blocks.", "encoder.layers."),
            ("attn.proj", "self_attn.projection"),
            ("attn.qkv", "self_attn.qkv"),
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding"),
            ("patch_embed.proj", "embeddings.patch_embedding"),
        ):
            key = key.replace(old, new)
        renamed["post_layernorm" + key[4:] if key.startswith("norm.") else key] = value
    model = BlipVisionModel(config)
    model.load_state_dict(renamed)
    return model.eval()


def transformers_text(state):
    config = BlipTextConfig(
        vocab_size=SIZES.vocab_size,
        hidden_size=32,
        encoder_hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        is_decoder=True,
    )
    prefix = "blip.text_encoder."
    model = BlipTextModel(config, add_pooling_layer=False)
    model.load_state_dict(
        {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix) and not key.endswith("position_ids")
        }
    )
    return model.eval()


def test_keys_are_the_published_ones():
    assert set(ImageRewardModel(SIZES).state_dict()) == published_keys(2, 2)


def test_shapes_at_full_size():
    with torch.device("meta"):
        state = ImageRewardModel(BlipSizes()).state_dict()
    assert set(state) == published_keys(24, 12)
    shapes = {
        "blip.visual_encoder.pos_embed": (1, 197, 1024),
        "blip.visual_encoder.blocks.23.mlp.fc1.weight": (4096, 1024),
        "blip.text_encoder.embeddings.word_embeddings.weight": (30524, 768),
        "blip.text_encoder.embeddings.position_embeddings.weight": (512, 768),
        "blip.text_encoder.encoder.layer.11.crossattention.self.key.weight": (768, 1024),
        "mlp.layers.0.weight": (1024, 768),
        "mlp.layers.7.weight": (1, 16),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_equals_transformers_blip_and_the_head_by_hand(reward, folder, pictures):
    state = load_file(folder / "weights.safetensors")
    # [CLS] words [SEP], by hand; the rest of the 35 is padding.
    ids = {word: index for index, word in enumerate(MARKS + WORDS)}
    sentences = [PROMPTS[0].split(), ["blue", "square", "##s"], PROMPTS[2].split()]
    tokens, mask = torch.zeros(3, 35, dtype=torch.long), torch.zeros(3, 35, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        marked = [ids[word] for word in ["[CLS]", *sentence, "[SEP]"]]
        tokens[row, : len(marked)], mask[row, : len(marked)] = torch.tensor(marked), 1
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        seen = transformers_vision(state)((pictures - mean) / std).last_hidden_state
        output = transformers_text(state)(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
            is_decoder=False,
        )
    values = output.last_hidden_state[:, 0]
    for index in (0, 2, 4, 6, 7):
        weight, bias = (state[f"mlp.layers.{index}.{kind}"] for kind in ("weight", "bias"))
        values = values @ weight.T + bias
    scores = reward(pictures, PROMPTS)
    assert scores.dtype == torch.float32 and scores.unique().numel() == 3
    torch.testing.assert_close(scores, (values[:, 0] - MEAN) / STD, rtol=1e-4, atol=1e-4)


def test_prompt_counts(reward, pictures):
    same = pictures[:1].expand(3, -1, -1, -1)
    assert reward(same, PROMPTS).unique().numel() == 3


def test_preprocessing_by_hand(reward):
    """Of an 80x32 picture the middle 32 columns are taken, as they are; one colour stays so."""
    bars = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]).repeat_interleave(16).expand(1, 3, 32, -1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    expected = (bars[..., 24:56] - mean) / std
    torch.testing.assert_close(reward.preprocess(bars), expected, rtol=0, atol=1e-6)
    flat = reward.preprocess(torch.full((1, 3, 100, 70), 0.25))
    torch.testing.assert_close(
        flat, ((0.25 - mean) / std).expand(3, 32, 32)[None], rtol=0, atol=1e-5
    )


def test_batch_equals_single(reward, pictures):
    batch = reward(pictures, PROMPTS)
    single = [reward(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), rtol=1e-4, atol=1e-4)


def test_gradient_reaches_the_pictures_and_points_up(reward, folder, pictures):
    differentiable = load(folder, differentiable=True)
    leaf = pictures.clone().requires_grad_()
    scores = differentiable(leaf, PROMPTS)
    scores.sum().backward()
    assert (leaf.grad.flatten(1).abs().amax(1) > 0).all()
    step = leaf.detach() + 0.005 * leaf.grad / leaf.grad.abs().amax((1, 2, 3), keepdim=True)
    assert (differentiable(step.clamp(0, 1), PROMPTS) > scores).all()
    assert not reward(leaf, PROMPTS).requires_grad


def test_lower_precision_leaves_the_head_alone(folder, pictures):
    low = load(folder, dtype=torch.bfloat16)
    assert next(low.model.mlp.parameters()).dtype == torch.float32
    assert next(low.model.blip.parameters()).dtype == torch.bfloat16
    scores = low(pictures, PROMPTS)
    assert scores.dtype == torch.float32 and scores.isfinite().all()


def test_long_prompt_is_cut_at_35_tokens_with_a_warning(folder, pictures):
    reward = load(folder)
    with pytest.warns(UserWarning, match=r"40 tokens, 5 more than .* \(35\)"):
        cut = reward(pictures[:1], [" ".join(["red"] * 38)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cut, reward(pictures[:1], [" ".join(["red"] * 33)]))
        reward(pictures[:1], [" ".join(["red"] * 38)])  # warned before


def test_pickle_needs_the_flag(reward, folder, pictures):
    with pytest.raises(ConfigError, match=r"ImageReward\.pt' is not safetensors"):
        load(folder, "ImageReward.pt")
    for source in (folder, folder / "ImageReward.pt"):
        allowed = load_imagereward(str(source), str(folder), sizes=SIZES, allow_pickle=True)
        torch.testing.assert_close(
            allowed(pictures, PROMPTS), reward(pictures, PROMPTS), rtol=0, atol=1e-4
        )
    with pytest.raises(ConfigError, match=r"THUDM/ImageReward/ImageReward\.pt' is not safetensors"):
        load_imagereward()  # before the download


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda state: state.pop("blip.visual_encoder.norm.bias"),
            r"lacks 'blip\.visual_encoder\.norm\.bias'",
        ),
        (lambda state: state.update({"blip.itm": torch.ones(1)}), r"holds 'blip\.itm'"),
        (
            lambda state: state.update({"mlp.layers.0.bias": torch.ones(3)}),
            r"'mlp\.layers\.0\.bias' of shape \(3,\), but the model \(1024,\)",
        ),
    ],
)
def test_first_wrong_key_is_named(folder, tmp_path, damage, message):
    state = load_file(folder / "weights.safetensors")
    damage(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=message) as caught:
        load_imagereward(str(tmp_path / "w.safetensors"), str(folder), sizes=SIZES)
    assert "\n" not in str(caught.value)


def test_tokenizer_must_fit(folder):
    with pytest.raises(ConfigError, match=r"has 15 tokens with BLIP's marks, but the model 30524"):
        load_imagereward(str(folder / "weights.safetensors"), str(folder))
