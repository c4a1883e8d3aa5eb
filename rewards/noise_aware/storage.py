"""Noise-aware weights on disk: `noise_aware.json` and `noise_aware.safetensors` in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from gensift.errors import ConfigError
from gensift.files import write_atomically
from rewards.loading import load_strictly, read_checkpoint
from rewards.noise_aware.reward import NoiseAwareReward, check_base
from rewards.noise_aware.weights import NoiseAwareWeights, make_weights
from rewards.protocol import reward_name

CONFIG, TENSORS = "noise_aware.json", "noise_aware.safetensors"


def save_weights(
    weights: NoiseAwareWeights,
    folder: Path,
    *,
    reward_name: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write noise-aware weights; the folder is what `load_reward(..., noise_aware=FOLDER)` takes.

    Args:
        weights: of any storage.
        folder: made if need be.
        reward_name: whose network they belong to.
        dtype: on disk.

    Raises:
        ConfigError: a weight is not finite, or too large for `dtype`.
    """
    state = {key: value.to(dtype).contiguous() for key, value in weights.state_dict().items()}
    for key, value in state.items():
        if not value.isfinite().all():
            raise ConfigError(
                f"Noise-aware weights {key!r} are not finite in {dtype}; train with a lower "
                "learning rate, or save them in float32."
            )
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "storage": weights.storage,
        "reward": reward_name,
        "sigmas": list(weights.sigmas),
        "rank": _rank(weights),
        "changes": sorted(weights.names.values()),
    }
    write_atomically(folder / TENSORS, save(state))
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_noise_aware(reward: Any, folder: str | Path) -> NoiseAwareReward:
    """Give a reward the noise-aware weights in `folder`.

    Raises:
        ConfigError: no such folder, damaged files, or weights of another reward or model.
    """
    check_base(reward)
    place = Path(folder).expanduser()
    config = _read_config(place)
    own = dict(reward.model.named_parameters())
    missing = [name for name in config["changes"] if name not in own]
    if config["reward"] != reward_name(reward) or missing:
        what = f"lacks {missing[0]!r}" if missing else f"is {reward_name(reward)!r}"
        raise ConfigError(
            f"The noise-aware weights in {str(place)!r} are for {config['reward']!r}, but the "
            f"reward {what}; give those of this very model."
        )
    base = {name: own[name] for name in config["changes"]}
    weights = make_weights(config["storage"], base, config["sigmas"], config["rank"])
    file = str(place / TENSORS)
    state = {key: value.float() for key, value in read_checkpoint(file).items()}
    load_strictly(weights, state, file)
    return NoiseAwareReward(reward, weights)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text())
        rank = int(config["rank"])
        if rank < 1 or not isinstance(config["changes"], list):
            raise ValueError("rank or changes")
        sigmas = [float(sigma) for sigma in config["sigmas"]]
        kept = {key: config[key] for key in ("storage", "reward", "changes")}
        return kept | {"sigmas": sigmas, "rank": rank}
    except OSError as error:
        raise ConfigError(
            f"Folder {str(folder)!r} holds no noise-aware weights (no {CONFIG}); give one that "
            "gensift train-reward wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{str(file)!r} is damaged ({error!r}); train again.") from error


def _rank(weights: NoiseAwareWeights) -> int:
    ranks = [v.shape[-1] for key, v in weights.state_dict().items() if "up." in key]
    return max(ranks, default=1)
