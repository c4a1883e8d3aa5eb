import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from apps.training.zoo.vocabulary import build_clip_tokenizer
from gensift.errors import ConfigError, DeviceError
from rewards.pickscore import load_pickscore
from rewards.preprocess import Preprocess
from rewards.registry import load_reward

PROMPTS = ["a red circle", "two blue squares", "a red circle left of a blue square"]
CONTEXT = 16


def published_keys(layers):
    """Keys of the published checkpoint, whose transformers version still saved position ids."""
    layer = [f"self_attn.{part}_proj" for part in "kvq"] + ["self_attn.out_proj"]
    layer += ["layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2"]
    keys = {"logit_scale", "visual_projection.weight", "text_projection.weight"}
    for part, norms in (
        ("text_model", ["final_layer_norm"]),
        ("vision_model", ["pre_layrnorm", "post_layernorm"]),
    ):
        names = norms + [f"encoder.layers.{i}.{name}" for i in range(layers) for name in layer]
        keys |= {f"{part}.{name}.{kind}" for name in names for kind in ("weight", "bias")}
        keys |= {f"{part}.embeddings.position_{kind}" for kind in ("ids", "embedding.weight")}
    return keys | {
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.patch_embedding.weight",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP model with random weights in the published layout, and its tokenizer."""
    path = tmp_path_factory.mktemp("tiny-pickscore")
    tokenizer = build_clip_tokenizer()
    tokenizer.save_pretrained(path)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={**shared, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=4.6,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(path)
    state = load_file(path / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def reward(folder):
    return load_pickscore(str(folder), str(folder))


def copy_with(folder, target, change):
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    state = load_file(target / "model.safetensors")
    change(state)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_layout_is_the_published_one(folder):
    assert set(load_file(folder / "model.safetensors")) == published_keys(2)


def test_equals_transformers_itself(reward, folder, pictures):
    tokenizer = build_clip_tokenizer()
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    model = CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        output = model(pixel_values=(pictures - mean) / std, **tokens)
    scores = reward(pictures, PROMPTS)
    assert scores.dtype == torch.float32 and scores.unique().numel() == 3
    torch.testing.assert_close(scores, output.logits_per_image.diag(), rtol=0, atol=1e-4)


def test_scale_is_that_of_the_checkpoint(reward, pictures):
    assert reward.scale == pytest.approx(torch.tensor(4.6).exp().item(), rel=1e-6)
    assert reward.preprocess == Preprocess.from_open_clip({"size": 32})


def test_closer_picture_scores_higher(folder, pictures):
    reward = load_pickscore(str(folder), str(folder), differentiable=True)
    leaf = pictures.clone().requires_grad_()
    before = reward(leaf, PROMPTS)
    before.sum().backward()
    step = (leaf + 0.02 * normalize(leaf.grad.flatten(1)).view_as(leaf)).detach().clamp(0, 1)
    with torch.no_grad():
        closer = reward(step, PROMPTS)
    assert leaf.grad.abs().sum() > 0 and (closer > before).all()


def test_batch_equals_single_and_no_gradient_by_default(reward, pictures):
    batch = reward(pictures.clone().requires_grad_(), PROMPTS)
    single = [reward(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), rtol=0, atol=1e-4)
    assert not batch.requires_grad


def test_lower_precision_keeps_the_exact_scale(reward, folder, pictures):
    low = load_pickscore(str(folder), str(folder), dtype=torch.bfloat16)
    assert low.scale == reward.scale
    torch.testing.assert_close(low(pictures, PROMPTS), reward(pictures, PROMPTS), rtol=0, atol=3)


def test_long_prompt_is_cut_with_a_warning(reward, pictures):
    with pytest.warns(UserWarning, match=r"20 tokens, 4 more than .* \(16\)"):
        cut = reward(pictures[:1], [" ".join(["red"] * 18)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cut, reward(pictures[:1], [" ".join(["red"] * 14)]))


def test_missing_key_is_named(folder, tmp_path):
    model = copy_with(folder, tmp_path, lambda state: state.pop("text_projection.weight"))
    with pytest.raises(ConfigError, match=r"lacks 'text_projection\.weight'") as caught:
        load_pickscore(model, str(folder))
    assert "\n" not in str(caught.value)


def test_unknown_key_is_named(folder, tmp_path):
    model = copy_with(folder, tmp_path, lambda state: state.update(odd=torch.ones(1)))
    with pytest.raises(ConfigError, match=r"holds the unknown 'odd'"):
        load_pickscore(model, str(folder))


def test_wrong_shape_is_named(folder, tmp_path):
    wrong = {"visual_projection.weight": torch.ones(8, 32)}
    model = copy_with(folder, tmp_path, lambda state: state.update(wrong))
    with pytest.raises(ConfigError, match=r"another shape 'visual_projection\.weight'") as caught:
        load_pickscore(model, str(folder))
    assert "\n" not in str(caught.value)


def test_truncated_file_gives_one_line(folder, tmp_path):
    model = copy_with(folder, tmp_path, lambda state: None)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_pickscore(model, str(folder))
    assert "\n" not in str(caught.value)


def test_pickle_needs_the_flag(reward, folder, tmp_path, pictures):
    model = copy_with(folder, tmp_path, lambda state: None)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_pickscore(model, str(folder))
    allowed = load_pickscore(model, str(folder), allow_pickle=True)
    torch.testing.assert_close(
        allowed(pictures, PROMPTS), reward(pictures, PROMPTS), rtol=0, atol=1e-4
    )


def test_missing_models_give_one_line(folder):
    for arguments in [(str(folder), "/no/such/folder"), ("/no/such/folder", str(folder))]:
        with pytest.raises(ConfigError, match=r"cannot be loaded.*Check the name") as caught:
            load_pickscore(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"dtype is torch\.float64"):
        load_reward("pickscore", dtype=torch.float64)
    with pytest.raises(DeviceError, match="unknown"):
        load_reward("pickscore", device="quantum")
