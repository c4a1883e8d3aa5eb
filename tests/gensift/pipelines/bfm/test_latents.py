"""Latents of pictures, as the pipeline decodes them."""

import pytest
import torch
from helpers.tiny_models import kl_vae

from gensift.pipelines.bfm.latents import decode_pictures, encode_pictures, vae_factor


@pytest.mark.parametrize("shift", [None, 0.1, -0.3])
def test_what_is_encoded_is_what_the_pipeline_decodes(shift: float | None) -> None:
    torch.manual_seed(0)
    vae = kl_vae(4, scaling_factor=0.4, shift_factor=shift)
    pictures = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        mean, std = encode_pictures(vae, pictures)
        posterior = vae.encode(2 * pictures - 1).latent_dist
        wanted = (vae.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1)
        found = decode_pictures(vae, mean, "pt")
        noisy = decode_pictures(vae, mean + 2 * std, "pt")
        wanted_noisy = vae.decode(posterior.mean + 2 * posterior.std).sample / 2 + 0.5
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(noisy, wanted_noisy.clamp(0, 1), rtol=0, atol=1e-5)
    assert mean.shape == std.shape == (2, 4, 16 // vae_factor(vae), 16 // vae_factor(vae))
