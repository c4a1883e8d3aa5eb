import numpy as np
import pytest
import torch
from PIL import Image

from gensift.errors import RewardError
from rewards.protocol import Reward, call_reward, reward_name, to_tensor


def brightness(images, prompts):
    return images.mean((1, 2, 3))


class Named:
    name = "mine"

    def __call__(self, images, prompts):
        return brightness(images, prompts)


def grey(*levels, size=4):
    return torch.stack([torch.full((3, size, size), level) for level in levels])


def test_names():
    assert reward_name(brightness) == "brightness"
    assert reward_name(Named()) == "mine"
    assert isinstance(brightness, Reward)


def test_pil_and_tensor_agree_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    listed = [Image.fromarray(picture) for picture in pixels]
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert torch.equal(to_tensor(listed, ["a", "b"]), expected)
    assert torch.equal(to_tensor([p.convert("RGBA") for p in listed], ["a", "b"]), expected)


def test_tensor_keeps_gradient_and_becomes_float32():
    images = torch.rand(1, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    result = to_tensor(images, ["a"])
    assert result.dtype == torch.float32 and result.requires_grad


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (torch.zeros(3, 4, 4), ["a"], "float32 (3, 4, 4)"),
        (torch.zeros(1, 4, 4, 3), ["a"], "(1, 4, 4, 3)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ["a"], "uint8"),
        (torch.full((1, 3, 4, 4), -1.0), ["a"], "from -1 to -1"),
        (torch.full((1, 3, 4, 4), 255.0), ["a"], "to 255"),
        (torch.zeros(2, 3, 4, 4), ["a"], "2 images came with 1 as prompts"),
        (torch.zeros(1, 3, 4, 4), "a", "one string"),
        (torch.zeros(0, 3, 4, 4), [], "at least one"),
        ([], [], "sizes none"),
        (["a.png"], ["a"], "str"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], ["a", "b"], "4x4, 5x4"),
    ],
)
def test_bad_pictures_give_one_line(images, prompts, message):
    with pytest.raises(RewardError) as caught:
        to_tensor(images, prompts)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_call_reward_in_micro_batches_equals_one_call():
    calls = []

    def counted(images, prompts):
        calls.append(list(prompts))
        return brightness(images, prompts)

    images, prompts = grey(0.1, 0.2, 0.3, 0.4, 0.5), list("abcde")
    scores = call_reward(counted, images, prompts, max_images=2)
    assert calls == [["a", "b"], ["c", "d"], ["e"]]
    assert torch.equal(scores, call_reward(brightness, images, prompts))


def test_call_reward_converts_what_it_can():
    images, prompts = grey(0.0, 1.0), ["a", "b"]
    assert call_reward(lambda i, p: [0.5, 2], images, prompts).tolist() == [0.5, 2.0]
    doubles = call_reward(lambda i, p: torch.ones(2, dtype=torch.float64), images, prompts)
    assert doubles.dtype == torch.float32
    attached = call_reward(lambda i, p: torch.ones(2, requires_grad=True), images, prompts)
    assert not attached.requires_grad
    pil = [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), "white")]
    assert call_reward(brightness, pil, prompts).tolist() == [0.0, 1.0]


def test_non_finite_scores_and_pixels_are_left_alone():
    returned = call_reward(lambda i, p: [float("nan"), float("inf")], grey(0.0, 0.0), ["a", "b"])
    assert returned.isnan().tolist() == [True, False] and returned[1] == torch.inf
    assert call_reward(brightness, grey(float("nan")), ["a"]).isnan().all()


@pytest.mark.parametrize(
    "returned", [torch.ones(2, 1), torch.tensor(1.0), [1.0], None, "ab", [None, 1.0]]
)
def test_bad_return_names_the_reward(returned):
    def broken(images, prompts):
        return returned

    with pytest.raises(RewardError, match="'broken' returned") as caught:
        call_reward(broken, grey(0.0, 0.0), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_max_images_below_one_is_refused():
    with pytest.raises(RewardError, match="max_images is 0"):
        call_reward(brightness, grey(0.0), ["a"], max_images=0)
