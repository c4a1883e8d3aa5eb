"""CLIPScore with any open_clip model: the cosine between a picture and its prompt."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gensift.errors import ConfigError, nearest_hint
from gensift.hub import foreign_errors
from gensift.pipelines.loading import resolve_device
from rewards.loading import PRECISIONS, check_dtype, refuse_pickle
from rewards.network import NetworkReward
from rewards.preprocess import Preprocess
from rewards.protocol import Images

_MAX_CACHED_PROMPTS = 1024
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_SAFE_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


class OpenClipReward(NetworkReward):
    """`scale` times the cosine of image and text features.

    Conventions in use: the plain cosine (`scale=1`, typically 0.2 to 0.35), torchmetrics' CLIPScore
    100 * max(cosine, 0), and the original CLIPScore 2.5 * max(cosine, 0), whose prompts begin with
    "A photo depicts". With `scale` 100 or 2.5 positive scores equal those; negative ones are kept,
    so that they can still be ranked. Scores of different models or conventions are not comparable.

    Source: Hessel et al. 2021, "CLIPScore", section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str = "clip-score",
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        differentiable: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: with open_clip's `encode_image` and `encode_text`; put into evaluation mode.
            preprocess: see `NetworkReward`, as `name`, `dtype` and `differentiable`; text features
                never carry gradients.
            tokenizer: open_clip's own, from a list of prompts to ids `(prompts, context_length)`.
            scale: factor of the cosine.
        """
        super().__init__(model, preprocess, name=name, dtype=dtype, differentiable=differentiable)
        self.tokenizer = tokenizer
        self.scale = scale
        self._texts: dict[str, Tensor] = {}

    def score_each(self, images: Images, prompts: Sequence[str]) -> Tensor:
        """Score every picture against every prompt, at the price of scoring each picture once.

        Args:
            images: as in a call.
            prompts: any number of them.

        Returns:
            float32 `(images, prompts)` on the model's device.
        """
        with nullcontext() if self.differentiable else torch.no_grad():
            pixels = self._pixels(images, [""] * len(images))
            return self.scale * self._features(pixels) @ self._texts_of(prompts, pixels.device).T

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        texts = self._texts_of(prompts, pixels.device)
        return self.scale * (self._features(pixels) * texts).sum(-1)

    def _features(self, pixels: Tensor) -> Tensor:
        encoded: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
        return normalize(encoded.float(), dim=-1)

    def _texts_of(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        # The model may have been moved since a prompt was encoded.
        return torch.stack([self._text(prompt).to(device) for prompt in prompts])

    def encode_prompts(self, prompts: Sequence[str]) -> None:
        """Encode prompts ahead, by the model's weights as they are now."""
        for prompt in prompts:
            self._text(prompt)

    def _text(self, prompt: str) -> Tensor:
        """Unit-length float32 text feature; encoded alone, so that no batch can change it."""
        if prompt not in self._texts:
            warn_if_cut(self.tokenizer, prompt)
            # Outside of inference mode, whose tensors a later differentiable call could not use.
            with torch.inference_mode(False), torch.no_grad():
                tokens = self.tokenizer([prompt]).to(self.device)
                feature = normalize(self.model.encode_text(tokens).float(), dim=-1)[0]  # type: ignore[operator]
            if len(self._texts) >= _MAX_CACHED_PROMPTS:
                self._texts.pop(next(iter(self._texts)))
            self._texts[prompt] = feature
        return self._texts[prompt]


def warn_if_cut(tokenizer: Any, prompt: str) -> None:
    """Warn of a prompt longer than the `context_length` of its tokenizer."""
    if hasattr(tokenizer, "encode"):  # open_clip's own, which leaves out the two marks
        count = len(tokenizer.encode(prompt)) + 2
    elif hasattr(tokenizer, "tokenizer"):  # a transformers tokenizer inside
        cleaned = getattr(tokenizer, "clean_fn", str)(prompt)
        count = len(tokenizer.tokenizer(cleaned, verbose=False).input_ids)
    else:
        return
    excess = count - tokenizer.context_length
    if excess > 0:
        warnings.warn(
            f"Prompt {shorten(prompt, 60)!r} has {count} tokens, {excess} more than the reward "
            f"model reads ({tokenizer.context_length}); its end does not count in the score.",
            stacklevel=2,
        )


def load_clip_score(
    model: str = "ViT-L-14",
    pretrained: str = "openai",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    differentiable: bool = False,
    allow_pickle: bool = False,
    name: str = "clip-score",
) -> OpenClipReward:
    """Load an open_clip model as a reward.

    The default is the model that the FK steering repository scores with.

    Args:
        model: an open_clip architecture, a folder with `open_clip_config.json` (also as
            `local-dir:PATH`), or a hub id as `hf-hub:OWNER/NAME`.
        pretrained: of an architecture, its checkpoint tag or a checkpoint file; folders and hub ids
            bring their own. QuickGELU is switched on for the tags that need it; with OpenAI's
            weights in a file take the architecture whose name ends in `-quickgelu`.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: float32, bfloat16 or float16.
        scale: factor of the cosine; see `OpenClipReward`.
        differentiable: let gradients reach the pictures.
        allow_pickle: read checkpoints other than safetensors too, with `weights_only=True`.
        name: name in results.

    Raises:
        ConfigError: no such model or checkpoint, a pickled one, or it cannot be read.
        DeviceError: the device is absent.
    """
    check_dtype(dtype)
    import open_clip

    target = resolve_device(device)
    loaded, tokenizer = create_open_clip(model, pretrained, target, PRECISIONS[dtype], allow_pickle)
    return OpenClipReward(
        loaded.requires_grad_(False),
        Preprocess.from_open_clip(open_clip.get_model_preprocess_cfg(loaded)),
        tokenizer,
        name=name,
        scale=scale,
        dtype=dtype,
        differentiable=differentiable,
    )


def create_open_clip(
    model: str, pretrained: str, device: str, precision: str, allow_pickle: bool
) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """The model, with its weights, and its tokenizer: texts to ids, int64 `(texts, length)`."""
    import open_clip

    if model not in open_clip.list_models() and Path(model).is_dir():
        model = _LOCAL + model
    has_own_weights = model.startswith((_LOCAL, _HUB))
    with foreign_errors(
        f"open_clip model {model!r}",
        "Check the name and that the files are complete, or give a local folder",
        hub_source(model, pretrained),
    ):
        tag = {} if has_own_weights else _tag_config(model, pretrained)
        refuse_pickle(_weight_files(model, pretrained, tag), allow_pickle)
        loaded = open_clip.create_model(
            model,
            None if has_own_weights else pretrained,
            precision=precision,
            device=device,
            force_quick_gelu=bool(tag.get("quick_gelu")),
            require_pretrained=True,
            weights_only=True,
        )
        return loaded, open_clip.get_tokenizer(model)


def hub_source(model: str, pretrained: str) -> str:
    """The hub id that an open_clip model comes from; empty for one that comes from elsewhere."""
    import open_clip

    if model.startswith(_HUB):
        return model.removeprefix(_HUB)
    tag = open_clip.get_pretrained_cfg(model.replace("/", "-"), pretrained)
    return "/".join(tag.get("hf_hub", "").split("/")[:2])


def _tag_config(model: str, pretrained: str) -> dict[str, Any]:
    """open_clip's entry for a checkpoint tag; empty when `pretrained` is a file."""
    import open_clip

    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        raise ConfigError(
            f"{model!r} is neither an open_clip architecture nor a folder."
            f"{nearest_hint(model, known)} Give an architecture, a folder with "
            "open_clip_config.json, or hf-hub:OWNER/NAME."
        )
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(model.replace("/", "-"), pretrained)
    if not tag and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model.replace("/", "-")))
        raise ConfigError(
            f"{pretrained!r} is neither a checkpoint tag of {model!r} nor a file. "
            f"Tags: {tags or 'none'}."
        )
    return tag


def _weight_files(model: str, pretrained: str, tag: dict[str, Any]) -> list[str]:
    """The files that open_clip may read its weights from, downloaded if need be."""
    from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

    if model.startswith(_HUB):
        return [download_pretrained_from_hf(model.removeprefix(_HUB))]
    if not model.startswith(_LOCAL):
        return [download_pretrained(tag) if tag else pretrained]
    folder = Path(model.removeprefix(_LOCAL))
    preferred = [folder / name for name in _SAFE_NAMES if (folder / name).is_file()]
    found = preferred[:1] or [
        path for suffix in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{suffix}")
    ]
    if not (folder / "open_clip_config.json").is_file() or not found:
        raise ConfigError(
            f"Folder {str(folder)!r} is no open_clip model; it needs open_clip_config.json and "
            f"{_SAFE_NAMES[0]}."
        )
    return [str(path) for path in found]
