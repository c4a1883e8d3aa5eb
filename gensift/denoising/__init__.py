"""What diffusers' denoising loops have in common: facts that samplers and caches build on."""
