"""Human Preference Score v2 and v2.1: open_clip models trained on preferences."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from gensift.errors import ConfigError
from gensift.pipelines.loading import resolve_device
from rewards.loading import PRECISIONS, check_dtype, find_checkpoint
from rewards.open_clip_score import OpenClipReward, create_open_clip
from rewards.preprocess import Preprocess

_FILES = {"hpsv2": "HPS_v2_compressed.pt", "hpsv2.1": "HPS_v2.1_compressed.pt"}


def load_hpsv2(
    checkpoint: str = "xswu/HPSv2",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
    allow_pickle: bool = False,
    architecture: str = "ViT-H-14",
    version: str = "hpsv2",
    name: str | None = None,
) -> OpenClipReward:
    """Load HPS v2 or v2.1: the plain cosine, about 0.27; benchmarks print it times 100.

    Compare pictures of the same prompt and the same version only. As in the official scorer, a
    picture is resized until its longest edge fits, on the float tensor and with antialiasing, and
    padded with black; open_clip's own default would crop it.

    Args:
        checkpoint: a file, a folder with `HPS_v2_compressed.pt` (v2.1: `HPS_v2.1_compressed.pt`) or
            the same as `.safetensors`, or a hub id; published as a pickle.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: float32, bfloat16 or float16.
        differentiable: let gradients reach the pictures.
        allow_pickle: read checkpoints other than safetensors too, with `weights_only=True`.
        architecture: of open_clip, that the checkpoint is of.
        version: "hpsv2" or "hpsv2.1".
        name: name in results; by default the version.

    Raises:
        ConfigError: no such version or checkpoint, a pickled one, or it cannot be read.
        DeviceError: the device is absent.

    Source: Wu et al. 2023, "Human Preference Score v2", and the published scorer.
    """
    if version not in _FILES:
        raise ConfigError(f"version is {version!r}; give one of {', '.join(_FILES)}.")
    check_dtype(dtype)
    target = resolve_device(device)
    file = find_checkpoint(checkpoint, _FILES[version], allow_pickle=allow_pickle)
    model, tokenizer = create_open_clip(architecture, file, target, PRECISIONS[dtype], allow_pickle)
    import open_clip

    size = open_clip.get_model_preprocess_cfg(model)["size"]
    prepare = Preprocess.from_open_clip({"size": size, "resize_mode": "longest"})
    return OpenClipReward(
        model.requires_grad_(False),
        replace(prepare, clamp=False),
        tokenizer,
        name=name or version,
        dtype=dtype,
        differentiable=differentiable,
    )


load_hpsv21 = partial(load_hpsv2, version="hpsv2.1")
