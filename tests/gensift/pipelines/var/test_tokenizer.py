"""VAR's tokenizer against its definition."""

from typing import Any

import pytest
import torch
from helpers.next_scale import var_tokenizer
from torch import Tensor
from torch.nn import functional as F

from gensift.pipelines.var.tokenizer import phi_index

GRIDS = ((1, 1), (2, 2), (3, 3), (5, 5), (8, 8))


def test_ten_scales_have_the_convolutions_they_were_trained_with() -> None:
    """Scales 2 and 7 lie midway between two; rounding gives them the later one."""
    assert [phi_index(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(("num_scales", "num_phi"), [(10, 4), (13, 4), (5, 2), (7, 1), (1, 4)])
def test_later_scales_never_go_back(num_scales: int, num_phi: int) -> None:
    found = [phi_index(k, num_scales, num_phi) for k in range(num_scales)]
    assert found == sorted(found) and found[0] == 0
    assert num_scales == 1 or found[-1] == num_phi - 1


def smoothed(vae: Any, codes: Tensor, k: int) -> Tensor:
    size = GRIDS[-1]
    large = F.interpolate(codes, size, mode="bicubic") if codes.shape[-2:] != size else codes
    conv = vae.phi[phi_index(k, len(GRIDS), 4)]
    return 0.5 * large + 0.5 * F.conv2d(large, conv.weight, conv.bias, padding=1)


@torch.no_grad()
def test_quantize_codes_what_is_left_over() -> None:
    vae = var_tokenizer()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = vae.quantize(latents, GRIDS)
    total = torch.zeros_like(latents)
    for k, (height, width) in enumerate(GRIDS):
        rest = F.adaptive_avg_pool2d(latents - total, (height, width))
        distances = (rest[:, :, None] - vae.codebook.weight.T[None, :, :, None, None]).square()
        assert torch.equal(found.indices[k], distances.sum(1).argmin(1))
        if k:
            assert torch.allclose(
                found.inputs[k - 1], F.interpolate(total, (height, width), mode="area"), atol=1e-6
            )
        codes = vae.codebook.weight[found.indices[k]].permute(0, 3, 1, 2)
        assert torch.equal(vae.codes(found.indices[k]), codes)
        total = total + smoothed(vae, codes, k)
    assert torch.allclose(found.latents, total, atol=1e-5)


@torch.no_grad()
def test_what_is_added_scale_by_scale_is_what_was_quantized() -> None:
    vae = var_tokenizer()
    quantized = vae.quantize(torch.randn(1, 4, 8, 8), GRIDS)
    total = torch.zeros_like(quantized.latents)
    for k, indices in enumerate(quantized.indices):
        if k:
            assert torch.allclose(vae.next_input(total, GRIDS[k]), quantized.inputs[k - 1])
        total = vae.add(total, vae.codes(indices), k, len(GRIDS))
    assert torch.allclose(total, quantized.latents)


@torch.no_grad()
def test_pictures_have_their_size_and_range() -> None:
    vae = var_tokenizer()
    latents = vae.encode(torch.rand(2, 3, 16, 12))
    assert latents.shape == (2, 4, 8, 6) and vae.downscale == 2
    pictures = vae.decode(latents)
    assert pictures.shape == (2, 3, 16, 12)
    assert pictures.min() >= 0 and pictures.max() <= 1
