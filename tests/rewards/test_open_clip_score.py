import json
import shutil
import warnings

import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from gensift import hub
from gensift.errors import ConfigError, DeviceError, RewardError
from rewards import open_clip_score
from rewards.open_clip_score import load_clip_score

PROMPTS = ["a red circle", "two blue squares", "a red circle left of a blue square"]


@pytest.fixture(scope="module")
def reward(clip_folder):
    return load_clip_score(str(clip_folder))


@pytest.fixture
def copied(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


@pytest.fixture
def architecture(clip_folder, tiny_config, monkeypatch):
    """The tiny model as a built-in open_clip architecture whose tag needs QuickGELU."""
    weights = str(clip_folder / "open_clip_model.safetensors")
    tags = {"openai": {"file": weights, "quick_gelu": True}, "plain": {"file": weights}}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny-8", tiny_config(clip_folder))
    monkeypatch.setitem(pretrained._PRETRAINED, "Tiny-8", tags)
    return "Tiny-8"


def to_pil(images):
    return [Image.fromarray((i * 255).round().byte().permute(1, 2, 0).numpy()) for i in images]


def direct_cosine(folder, images, prompts):
    """By open_clip's own functions alone."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    config = open_clip.get_model_preprocess_cfg(model)
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(prompts)
    with torch.no_grad():
        pixels = torch.stack([transform(image) for image in to_pil(images)])
        image = model.eval().encode_image(pixels, normalize=True)
        return (image * model.encode_text(tokens, normalize=True)).sum(-1)


def test_equals_open_clip_itself(reward, clip_folder, pictures):
    scores = reward(pictures, PROMPTS)
    assert scores.dtype == torch.float32 and scores.shape == (3,)
    torch.testing.assert_close(
        scores, direct_cosine(clip_folder, pictures, PROMPTS), rtol=0, atol=1e-6
    )
    assert scores.unique().numel() == 3


def test_equals_open_clip_after_resizing(reward, clip_folder, pictures):
    large = torch.nn.functional.interpolate(pictures, (70, 90), mode="nearest")
    expected = direct_cosine(clip_folder, large, PROMPTS)
    torch.testing.assert_close(reward(large, PROMPTS), expected, rtol=0, atol=2e-3)


def test_every_picture_against_every_prompt(reward, pictures):
    table = reward.score_each(pictures, PROMPTS[:2])
    assert table.shape == (3, 2)
    for column, prompt in enumerate(PROMPTS[:2]):
        torch.testing.assert_close(table[:, column], reward(pictures, [prompt] * 3))


def test_scale_is_a_factor(reward, clip_folder, pictures):
    scaled = load_clip_score(f"local-dir:{clip_folder}", scale=100.0)
    torch.testing.assert_close(scaled(pictures, PROMPTS), 100 * reward(pictures, PROMPTS))


def test_batch_equals_single_and_pil_equals_tensor(reward, pictures):
    batch = reward(pictures, PROMPTS)
    single = [reward(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), rtol=0, atol=1e-6)
    assert torch.equal(reward(to_pil(pictures), PROMPTS), batch)


def test_save_and_load_again_gives_the_same(reward, clip_folder, pictures):
    again = load_clip_score(str(clip_folder))
    assert torch.equal(again(pictures, PROMPTS), reward(pictures, PROMPTS))


def test_each_prompt_is_encoded_once(clip_folder, pictures, monkeypatch):
    monkeypatch.setattr(open_clip_score, "_MAX_CACHED_PROMPTS", 2)
    reward = load_clip_score(str(clip_folder))
    encoded, encode = [], reward.model.encode_text
    monkeypatch.setattr(
        reward.model, "encode_text", lambda tokens: encoded.append(1) or encode(tokens)
    )
    reward(pictures, [PROMPTS[0]] * 3)
    reward(pictures, [PROMPTS[0]] * 3)
    assert len(encoded) == 1
    first = reward(pictures, PROMPTS)  # more prompts than the cache holds
    assert torch.equal(first, reward(pictures, PROMPTS)) and len(reward._texts) == 2


def test_gradient_reaches_the_pictures_only_when_asked(reward, clip_folder, pictures):
    leaf = pictures.clone().requires_grad_()
    assert not reward(leaf, PROMPTS).requires_grad
    differentiable = load_clip_score(str(clip_folder), differentiable=True)
    with torch.inference_mode():  # features cached here must not spoil the next call
        differentiable(pictures, PROMPTS)
    scores = differentiable(leaf, PROMPTS)
    scores.sum().backward()
    assert leaf.grad.abs().sum() > 0
    torch.testing.assert_close(scores.detach(), reward(pictures, PROMPTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision(reward, clip_folder, pictures, dtype):
    low = load_clip_score(str(clip_folder), dtype=dtype)(pictures, PROMPTS)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, reward(pictures, PROMPTS), rtol=0, atol=0.03)


def test_long_prompt_warns_once_with_the_count(clip_folder, pictures):
    reward = load_clip_score(str(clip_folder))
    prompt = " ".join(["red"] * 18)  # and two marks: 20 tokens, of which the model reads 16
    with pytest.warns(UserWarning, match=r"20 tokens, 4 more than .* \(16\)"):
        reward(pictures[:1], [prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(pictures[:1], [prompt])
        reward(pictures[:1], [" ".join(["red"] * 14)])


def test_long_prompt_warning_with_the_usual_tokenizer():
    tokenizer = open_clip.get_tokenizer("ViT-L-14")
    with pytest.warns(UserWarning, match=r"102 tokens, 25 more than .* \(77\)"):
        open_clip_score.warn_if_cut(tokenizer, "cat " * 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_clip_score.warn_if_cut(tokenizer, "cat " * 75)


def activations(reward):
    return {type(m).__name__ for m in reward.model.modules() if "GELU" in type(m).__name__}


def test_quick_gelu_follows_the_tag(architecture, pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # open_clip warns of a mismatch
        openai = load_clip_score(architecture, "openai")
    plain = load_clip_score(architecture, "plain")
    assert activations(openai) == {"QuickGELU"} and activations(plain) == {"GELU"}
    assert not torch.equal(openai(pictures, PROMPTS), plain(pictures, PROMPTS))


def test_openai_tag_of_the_default_model_asks_for_quick_gelu():
    assert open_clip_score._tag_config("ViT-L-14", "openai")["quick_gelu"] is True


def test_checkpoint_file(architecture, clip_folder, pictures):
    file = str(clip_folder / "open_clip_model.safetensors")
    expected = load_clip_score(architecture, "plain")(pictures, PROMPTS)
    assert torch.equal(load_clip_score(architecture, file)(pictures, PROMPTS), expected)


def test_pickle_needs_the_flag(architecture, clip_folder, pictures, tmp_path):
    file = str(tmp_path / "model.pt")
    torch.save(load_file(clip_folder / "open_clip_model.safetensors"), file)
    with pytest.raises(ConfigError, match="allow_pickle=True"):
        load_clip_score(architecture, file)
    allowed = load_clip_score(architecture, file, allow_pickle=True)
    expected = load_clip_score(architecture, "plain")(pictures, PROMPTS)
    assert torch.equal(allowed(pictures, PROMPTS), expected)


class Evil:
    def __reduce__(self):
        return (open, ("evil.txt", "w"))


def test_pickle_runs_no_code_even_with_the_flag(architecture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "model.pt")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_clip_score(architecture, "model.pt", allow_pickle=True)
    assert not (tmp_path / "evil.txt").exists()


def test_pickle_in_a_folder_is_refused_where_open_clip_might_read_it(copied):
    (copied / "open_clip_model.safetensors").rename(copied / "model.safetensors")
    load_clip_score(str(copied))
    (copied / "open_clip_pytorch_model.bin").write_bytes(b"")  # open_clip would prefer this one
    with pytest.raises(ConfigError, match="not safetensors"):
        load_clip_score(str(copied))


def break_config(folder):
    (folder / "open_clip_config.json").write_text("{")


def break_weights(folder):
    (folder / "open_clip_model.safetensors").write_bytes(b"nonsense")


def break_shape(folder):
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 8
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def drop_config(folder):
    (folder / "open_clip_config.json").unlink()


def drop_weights(folder):
    (folder / "open_clip_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_config, "cannot be loaded"),
        (break_weights, "cannot be loaded"),
        (break_shape, "cannot be loaded"),
        (drop_config, "needs open_clip_config.json"),
        (drop_weights, "needs open_clip_config.json and open_clip_model.safetensors"),
    ],
)
def test_damaged_folder_gives_one_line(copied, damage, message):
    damage(copied)
    with pytest.raises(ConfigError, match=message) as caught:
        load_clip_score(str(copied))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-L-41",), r"'ViT-L-41' is neither .* Nearest: .*'ViT-L-14'"),
        (("ViT-L-14", "opanai"), r"neither a checkpoint tag .* Tags: openai"),
        (("local-dir:/no/such/folder",), "no open_clip model"),
    ],
)
def test_unknown_models_give_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_clip_score(*arguments)
    assert "\n" not in str(caught.value)


def test_unreachable_hub_gives_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("Failed to download file\nfor owner/name")

    monkeypatch.setattr(pretrained, "download_pretrained_from_hf", fail)
    monkeypatch.setattr(hub, "is_hub_away", lambda: False)
    with pytest.raises(ConfigError, match="cannot be loaded: Failed to download") as caught:
        load_clip_score("hf-hub:owner/name")
    assert "\n" not in str(caught.value)


def test_hub_pickle_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(hub, "is_hub_away", lambda: False)
    monkeypatch.setattr(
        pretrained, "download_pretrained_from_hf", lambda model: f"/cache/{model}/weights.bin"
    )
    with pytest.raises(ConfigError, match=r"owner/name/weights\.bin.* not safetensors"):
        load_clip_score("hf-hub:owner/name")


def test_other_refusals(reward, clip_folder):
    with pytest.raises(ConfigError, match=r"dtype is torch\.float64"):
        load_clip_score(str(clip_folder), dtype=torch.float64)
    with pytest.raises(DeviceError, match="unknown"):
        load_clip_score(str(clip_folder), device="quantum")
    with pytest.raises(RewardError, match="one prompt for each"):
        reward(torch.zeros(2, 3, 32, 32), ["a"])
