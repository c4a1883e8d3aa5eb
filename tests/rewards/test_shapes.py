import numpy as np
import pytest
import torch
from PIL import Image

from gensift.errors import ConfigError, RewardError
from gensift.zoo import catalog
from gensift.zoo.shapes.grammar import KINDS, NUMBERS, RELATIONS, Meaning
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.world import render
from rewards.shapes import ShapesVerifierReward, shapes_clip

REWARD = ShapesVerifierReward()
RED_CIRCLE, BLUE_SQUARE = ("red", "circle"), ("blue", "square")


def all_forms():
    """Every kind alone and in every count, and pairs in every relation."""
    counts = [Meaning(kind, number) for kind in KINDS for number in (1, *NUMBERS.values())]
    pairs = [
        Meaning(first, 1, relation, second)
        for first, second in zip(KINDS, KINDS[7:] + KINDS[:7], strict=True)
        for relation in ("and", *RELATIONS)
    ]
    return counts + pairs


def picture(meaning, seed=0):
    scene = scene_for(meaning, np.random.default_rng(seed))
    return torch.from_numpy(render(scene)).permute(2, 0, 1) / 255


def test_every_form_of_scene_scores_one():
    meanings = all_forms()
    images = torch.stack([picture(meaning, 1000 + index) for index, meaning in enumerate(meanings)])
    scores = REWARD(images, [str(meaning) for meaning in meanings])
    assert scores.dtype == torch.float32 and scores.shape == (len(meanings),)
    assert (scores == 1).all()


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        (Meaning(RED_CIRCLE), "a blue circle"),
        (Meaning(RED_CIRCLE), "a red square"),
        (Meaning(RED_CIRCLE), "two red circles"),
        (Meaning(RED_CIRCLE, 3), "two red circles"),
        (Meaning(RED_CIRCLE), "a red circle and a blue square"),
        (Meaning(RED_CIRCLE, 1, "left of", BLUE_SQUARE), "a red circle right of a blue square"),
        (Meaning(RED_CIRCLE, 1, "above", BLUE_SQUARE), "a red circle below a blue square"),
        (
            Meaning(("blue", "circle"), 1, "and", ("red", "square")),
            "a red circle and a blue square",
        ),
    ],
)
def test_one_changed_attribute_scores_less(shown, asked):
    for seed in range(5):
        (score,) = REWARD(picture(shown, seed)[None], [asked])
        assert 0 <= score < 1


def test_partial_credit():
    shown = picture(Meaning(RED_CIRCLE, 1, "left of", BLUE_SQUARE))[None]
    assert REWARD(shown, ["a red circle right of a blue square"]).item() == 0.5
    assert REWARD(shown, ["a red circle left of a blue cross"]).item() == 0.375


def test_pil_equals_tensor_and_rounding_is_to_nearest():
    image = picture(Meaning(RED_CIRCLE))
    pil = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    assert REWARD([pil], ["a red circle"]).item() == 1
    assert REWARD((image - 0.4 / 255).clamp(0, 1)[None], ["a red circle"]).item() == 1


def test_nan_picture_scores_nan_and_leaves_the_others():
    images = picture(Meaning(RED_CIRCLE)).repeat(2, 1, 1, 1)
    images[0, 0, 0, 0] = torch.nan
    scores = REWARD(images, ["a red circle"] * 2)
    assert scores[0].isnan() and scores[1] == 1


def test_refusals():
    with pytest.raises(ConfigError, match="not of the Shapes world"):
        REWARD(torch.zeros(1, 3, 64, 64), ["a cat"])
    with pytest.raises(RewardError, match="48x32 pixels"):
        REWARD(torch.zeros(1, 3, 32, 48), ["a red circle"])


def test_shapes_clip_without_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "catalog.py"))
    with pytest.raises(ConfigError, match="gensift zoo train shapes-clip"):
        shapes_clip()


def test_shapes_clip_is_loaded_from_the_zoo(monkeypatch, tmp_path, clip_folder):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "shapes-clip").symlink_to(clip_folder)
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "catalog.py"))
    reward = shapes_clip(device="cpu")
    assert reward.name == "shapes-clip"
    assert reward(picture(Meaning(RED_CIRCLE))[None], ["a red circle"]).shape == (1,)
