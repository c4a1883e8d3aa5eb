"""Infinity's tokenizer: bits in, the same sum out."""

import pytest
import torch
from helpers.next_scale import GRIDS, infinity_tokenizer
from torch.nn import functional as F


@pytest.mark.parametrize("patch", [1, 2])
def test_what_is_added_scale_by_scale_is_what_was_quantized(patch: int) -> None:
    vae = infinity_tokenizer(patch)
    latents = torch.randn(2, 6, 6 * patch, 4 * patch)
    quantized = vae.quantize(latents, GRIDS)
    total = torch.zeros_like(latents)
    for k, bits in enumerate(quantized.bits):
        assert bits.shape == (2, 6 * patch**2, *GRIDS[k])
        if k:
            assert torch.allclose(vae.next_input(total, GRIDS[k]), quantized.inputs[k - 1])
        total = vae.add(total, bits, k, len(GRIDS))
    assert torch.allclose(total, quantized.latents)
    left = (latents - total).square().mean() / latents.square().mean()
    assert left < 0.7


@pytest.mark.parametrize("patch", [1, 2])
def test_codes_have_norm_one_and_the_signs_of_their_bits(patch: int) -> None:
    vae = infinity_tokenizer(patch)
    bits = torch.rand(1, 6 * patch**2, 3, 2) > 0.5
    codes = vae.codes(bits)
    assert torch.allclose(codes.norm(dim=1), torch.ones(1, 3 * patch, 2 * patch))
    assert torch.equal(F.pixel_unshuffle(codes, patch) > 0, bits)


def test_a_bit_that_goes_wrong_is_coded_anew_by_later_scales() -> None:
    vae = infinity_tokenizer()
    latents = torch.randn(1, 6, 6, 4)
    flips = [torch.ones(1, 6, 1, 1, dtype=torch.bool)]
    plain, flipped = vae.quantize(latents, GRIDS), vae.quantize(latents, GRIDS, flips)
    assert torch.equal(plain.bits[0], flipped.bits[0])
    assert not torch.equal(plain.inputs[0], flipped.inputs[0])
    assert not torch.equal(plain.bits[1], flipped.bits[1])


@torch.no_grad()
def test_pictures_have_their_size() -> None:
    vae = infinity_tokenizer(2)
    latents = vae.encode(torch.rand(1, 3, 16, 8))
    assert latents.shape == (1, 6, 8, 4)
    assert vae.downscale == 4 and vae.latent_size((4, 2)) == (8, 4)
    assert vae.decode(latents).shape == (1, 3, 16, 8)
