import pytest
import torch
from open_clip import factory
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from gensift.errors import ConfigError
from rewards.hpsv2 import load_hpsv2, load_hpsv21
from rewards.registry import load_reward

PROMPTS = ["a red circle", "two blue squares", "a red circle left of a blue square"]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@pytest.fixture
def folder(clip_folder, tiny_config, tmp_path, monkeypatch):
    """Both checkpoints, of the tiny model, which stands in for ViT-H-14, as published."""
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-H-14", tiny_config(clip_folder))
    for seed, name in enumerate(("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt")):
        torch.manual_seed(seed)
        torch.save({"state_dict": CLIP(**tiny_config(clip_folder)).state_dict()}, tmp_path / name)
    return tmp_path


def load(folder, name="hpsv2", **options):
    return load_reward(name, checkpoint=str(folder), allow_pickle=True, **options)


def expected_scores(folder, tiny_config, clip_folder, pixels, file="HPS_v2_compressed.pt"):
    """The cosine by hand; pictures as the model takes them."""
    import open_clip

    model = CLIP(**tiny_config(clip_folder)).eval()
    model.load_state_dict(torch.load(folder / file, weights_only=True)["state_dict"])
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(PROMPTS)
    with torch.no_grad():
        image, text = model.encode_image(pixels), model.encode_text(tokens)
    return torch.cosine_similarity(image, text)


@pytest.mark.parametrize(
    ("name", "file"),
    [("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")],
)
def test_score_is_the_plain_cosine(folder, tiny_config, clip_folder, pictures, name, file):
    pixels = (pictures - MEAN) / STD
    scores = load(folder, name)(pictures, PROMPTS)
    expected = expected_scores(folder, tiny_config, clip_folder, pixels, file)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert load(folder, name).name == name and scores.unique().numel() == 3


def test_versions_differ(folder, pictures):
    first, second = load(folder)(pictures, PROMPTS), load(folder, "hpsv2.1")(pictures, PROMPTS)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("height", "width"), [(80, 48), (50, 90), (21, 16), (64, 64)])
def test_longest_edge_is_resized_and_the_rest_padded_with_black(folder, height, width):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, height, width, generator=generator).round()  # overshoots at edges
    scale = 32 / max(height, width)
    inner = [round(height * scale), round(width * scale)]
    resized = resize(images, inner, InterpolationMode.BICUBIC, antialias=True)
    top, left = (32 - inner[0]) // 2, (32 - inner[1]) // 2
    expected = torch.zeros(2, 3, 32, 32)
    expected[:, :, top : top + inner[0], left : left + inner[1]] = resized
    prepared = load(folder).preprocess(images)
    torch.testing.assert_close(prepared, (expected - MEAN) / STD, rtol=0, atol=1e-5)


def test_resizing_by_hand(folder):
    """A picture of one colour stays so, between bars of black: 64x32 becomes 32x16."""
    prepared = load(folder).preprocess(torch.full((1, 3, 32, 64), 0.5)) * STD + MEAN
    expected = torch.zeros(1, 3, 32, 32)
    expected[:, :, 8:24] = 0.5
    torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-6)


def test_batch_equals_single(folder, pictures):
    reward = load(folder)
    single = [reward(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(reward(pictures, PROMPTS), torch.cat(single), rtol=0, atol=1e-6)


def test_gradient_reaches_the_pictures_and_points_up(folder, pictures):
    reward = load(folder, differentiable=True)
    leaf = pictures.clone().requires_grad_()
    scores = reward(leaf, PROMPTS)
    scores.sum().backward()
    step = leaf.detach() + 0.01 * leaf.grad / leaf.grad.abs().amax()
    assert (reward(step.clamp(0, 1), PROMPTS) > scores).all()
    assert not load(folder)(leaf, PROMPTS).requires_grad


def test_safetensors_are_preferred_and_need_no_flag(folder, pictures):
    expected = load(folder)(pictures, PROMPTS)
    state = torch.load(folder / "HPS_v2_compressed.pt", weights_only=True)["state_dict"]
    file = folder / "HPS_v2_compressed.safetensors"
    save_file(state, file)
    (folder / "HPS_v2_compressed.pt").write_bytes(b"never read")
    for checkpoint in (folder, file):
        scores = load_hpsv2(str(checkpoint))(pictures, PROMPTS)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert load_file(file).keys() == state.keys()


def test_published_pickle_is_refused_before_the_download():
    with pytest.raises(ConfigError, match=r"xswu/HPSv2/HPS_v2\.1_compressed\.pt.*allow_pickle"):
        load_hpsv21()


def test_wrong_key_is_named(folder):
    state = torch.load(folder / "HPS_v2_compressed.pt", weights_only=True)["state_dict"]
    state.pop("visual.proj")
    torch.save({"state_dict": state}, folder / "HPS_v2_compressed.pt")
    with pytest.raises(ConfigError, match=r"visual\.proj") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files_give_one_line(folder):
    whole = (folder / "HPS_v2_compressed.pt").read_bytes()
    for part in (b"", whole[: len(whole) // 2]):
        (folder / "HPS_v2_compressed.pt").write_bytes(part)
        with pytest.raises(ConfigError, match="cannot be loaded") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    (folder / "HPS_v2_compressed.pt").unlink()
    with pytest.raises(ConfigError, match=r"has no HPS_v2_compressed\.safetensors or"):
        load(folder)
