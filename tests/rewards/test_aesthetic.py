import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from gensift.errors import ConfigError, RewardError
from rewards.aesthetic import load_aesthetic
from rewards.registry import load_reward
from rewards.score_head import ScoreHead

PROMPTS = ["a", "b", "c"]
HEAD_SHAPES = {0: (1024, 16), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole tiny CLIP model, as published, of which the picture part is used; and a head."""
    path = tmp_path_factory.mktemp("tiny-aesthetic")
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shared["num_attention_heads"] = 2
    config = CLIPConfig(
        text_config={**shared, "vocab_size": 50},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(path)
    state = {}
    for index, shape in HEAD_SHAPES.items():
        state[f"layers.{index}.weight"] = torch.randn(shape) / shape[1] ** 0.5
        state[f"layers.{index}.bias"] = torch.randn(shape[0])
    torch.save(state, path / "aesthetic-model.pth")
    save_file(state, path / "head.safetensors")
    return path


def load(folder, **options):
    return load_aesthetic(str(folder), str(folder / "head.safetensors"), **options)


def test_equals_transformers_and_the_head_by_hand(folder, pictures):
    state = torch.load(folder / "aesthetic-model.pth", weights_only=True)
    model = CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        pooled = model.vision_model((pictures - mean) / std).pooler_output
        values = normalize(model.visual_projection(pooled), dim=-1)
    for index in HEAD_SHAPES:
        values = values @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
    scores = load(folder)(pictures, PROMPTS)
    assert scores.dtype == torch.float32 and scores.unique().numel() == 3
    torch.testing.assert_close(scores, values[:, 0], rtol=1e-5, atol=1e-5)


def test_head_has_the_published_keys():
    shapes = {key: tuple(value.shape) for key, value in ScoreHead(16).state_dict().items()}
    weights = {f"layers.{index}.weight": shape for index, shape in HEAD_SHAPES.items()}
    biases = {f"layers.{index}.bias": shape[:1] for index, shape in HEAD_SHAPES.items()}
    assert shapes == {**weights, **biases}


def test_prompts_do_not_matter_and_batch_equals_single(folder, pictures):
    reward = load(folder)
    batch = reward(pictures, PROMPTS)
    assert torch.equal(batch, reward(pictures, ["x", "y", "z"]))
    single = [reward(pictures[i : i + 1], ["a"]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), rtol=0, atol=1e-5)
    with pytest.raises(RewardError, match="one prompt for each"):
        reward(pictures, ["a"])


def test_gradient_reaches_the_pictures_and_points_up(folder, pictures):
    reward = load(folder, differentiable=True)
    leaf = pictures.clone().requires_grad_()
    scores = reward(leaf, PROMPTS)
    scores.sum().backward()
    step = leaf.detach() + 0.01 * leaf.grad / leaf.grad.abs().amax()
    assert (reward(step.clamp(0, 1), PROMPTS) > scores).all()
    assert not load(folder)(leaf, PROMPTS).requires_grad


def test_lower_precision(folder, pictures):
    low = load(folder, dtype=torch.bfloat16)(pictures, PROMPTS)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, load(folder)(pictures, PROMPTS), rtol=0, atol=0.05)


def test_pickled_head_needs_the_flag(folder, pictures):
    with pytest.raises(ConfigError, match=r"aesthetic-model\.pth' is not safetensors"):
        load_aesthetic(str(folder), str(folder))
    allowed = load_aesthetic(str(folder), str(folder), allow_pickle=True)
    torch.testing.assert_close(
        allowed(pictures, PROMPTS), load(folder)(pictures, PROMPTS), rtol=0, atol=1e-5
    )
    with pytest.raises(ConfigError, match=r"trl-lib/ddpo-aesthetic-predictor/aesthetic-model\.pth"):
        load_reward("aesthetic", model=str(folder))  # refused before the download


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("layers.4.bias"), r"lacks 'layers\.4\.bias'"),
        (lambda state: state.update(odd=torch.ones(1)), "holds 'odd'"),
        (
            lambda state: state.update({"layers.0.weight": torch.ones(1024, 768)}),
            r"'layers\.0\.weight' of shape \(1024, 768\), but the model \(1024, 16\)",
        ),
    ],
)
def test_first_wrong_key_is_named(folder, tmp_path, damage, message):
    state = torch.load(folder / "aesthetic-model.pth", weights_only=True)
    damage(state)
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match=message) as caught:
        load_aesthetic(str(folder), str(tmp_path / "head.safetensors"))
    assert "\n" not in str(caught.value)
