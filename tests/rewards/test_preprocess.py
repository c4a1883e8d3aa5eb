from itertools import product

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from rewards.preprocess import Preprocess

STD = (0.2, 0.3, 0.4)


def compare(height, width, **config):
    """Largest difference to open_clip's transform of the PIL picture, in 8-bit levels."""
    config = {"mean": (0.5, 0.4, 0.3), "std": STD, **config}
    pixels = torch.randint(
        0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(
        Image.fromarray(pixels.numpy())
    )
    batch = pixels.permute(2, 0, 1)[None] / 255
    result = Preprocess.from_open_clip(config)(batch)[0]
    assert result.shape == expected.shape and result.dtype == torch.float32
    return ((result - expected).abs() * torch.tensor(STD)[:, None, None] * 255).max().item()


SIZES = [(32, 32), (64, 64), (45, 70), (70, 45), (17, 29), (33, 32)]
# PIL rounds to 8 bits after each of its two passes, with weights that may sum above 1 in absolute
# value; so pixels differ by at most about one and a half levels on noise.
TOLERANCE = 1.6


@pytest.mark.parametrize(
    ("mode", "interpolation"),
    list(product(["shortest", "longest", "squash"], ["bicubic", "bilinear"])),
)
@pytest.mark.parametrize("given", SIZES)
def test_equals_open_clip_within_8_bit_rounding(given, mode, interpolation):
    config = {"size": 32, "resize_mode": mode, "interpolation": interpolation}
    assert compare(*given, **config) < TOLERANCE


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("given", SIZES)
def test_non_square_input_of_the_model(given, mode):
    assert compare(*given, size=(24, 40), resize_mode=mode, interpolation="bilinear") < TOLERANCE


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_exact_without_resizing(mode):
    assert compare(32, 32, size=32, resize_mode=mode) == 0
    assert compare(24, 40, size=(24, 40), resize_mode=mode) == 0


def test_exact_crop_without_resizing():
    assert compare(32, 45, size=32) == 0
    assert compare(46, 32, size=32) == 0


def test_fill_colour_of_the_padding():
    assert compare(16, 40, size=32, resize_mode="longest", fill_color=200) < TOLERANCE


def test_batch_equals_single_and_gradient_flows():
    prepare = Preprocess.from_open_clip({"size": 16, "mean": 0.5, "std": 0.5})
    assert prepare.mean == (0.5, 0.5, 0.5)
    images = torch.rand(3, 3, 40, 30, requires_grad=True)
    batch = prepare(images)
    assert torch.equal(batch[1:2], prepare(images[1:2]))
    batch.sum().backward()
    assert images.grad.abs().sum() > 0
