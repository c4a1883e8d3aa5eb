"""Scores of candidates that were all finished once: what a schedule is tuned on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gensift.errors import ConfigError, nearest_hint
from samplers.tuning.arrays import Floats as Floats
from samplers.tuning.arrays import worst_if_broken

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, eq=False)
class RewardScores:
    """Scores by one reward.

    A score that is not finite is allowed: such an image never survives a checkpoint and never wins.

    Attributes:
        early: what the pruning scorer says of the estimate after each step, float64
            `(prompts, images, steps)`; the last step is the finished picture.
        final: what the original reward says of the finished picture, float64 `(prompts, images)`.
    """

    early: Floats
    final: Floats

    @classmethod
    def of(cls, early: ArrayLike, final: ArrayLike | None = None) -> RewardScores:
        """Scores from any arrays; without `final` the last step of `early` is final.

        Args:
            early: real numbers `(prompts, images, steps)`.
            final: real numbers `(prompts, images)`.

        Raises:
            ConfigError: the shapes do not fit, there are fewer than two steps, or a prompt has no
                finite final score.
        """
        scores = _floats("early", early, 3)
        if scores.shape[2] < 2:
            raise ConfigError(
                f"early scores have the shape {scores.shape}, that is {scores.shape[2]} step(s); "
                "pruning needs at least two. Give (prompts, images, steps)."
            )
        last = scores[:, :, -1] if final is None else _floats("final", final, 2)
        if last.shape != scores.shape[:2]:
            raise ConfigError(
                f"final scores have the shape {last.shape}, early ones {scores.shape}; give "
                f"{scores.shape[:2]} final scores."
            )
        broken = np.flatnonzero(~np.isfinite(last).any(axis=1))
        if len(broken):
            raise ConfigError(
                f"prompt {broken[0]} (of {len(broken)} such prompts) has no finite final score; "
                "leave it out."
            )
        return cls(scores, last)


@dataclass(frozen=True, eq=False)
class ScoreTensors:
    """Scores by one or several rewards, which are combined by rank sum among the living.

    Attributes:
        rewards: by name, all of the same shape.
        sigmas: noise level of the estimate after each step, `(steps,)`, if known.
        prompts: the texts, if known.
    """

    rewards: Mapping[str, RewardScores]
    sigmas: tuple[float, ...] | None = None
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        shapes = {name: scores.early.shape for name, scores in self.rewards.items()}
        if len(set(shapes.values())) != 1:
            raise ConfigError(
                f"the rewards' early scores have the shapes {shapes}; give at least one reward, "
                "and the same shape for each."
            )
        if self.sigmas is not None and len(self.sigmas) != self.num_steps:
            raise ConfigError(f"{len(self.sigmas)} sigmas are for {self.num_steps} steps.")
        if self.prompts is not None and len(self.prompts) != self.num_prompts:
            raise ConfigError(f"{len(self.prompts)} texts are for {self.num_prompts} prompts.")

    @classmethod
    def single(
        cls, early: ArrayLike, final: ArrayLike | None = None, name: str = "reward"
    ) -> ScoreTensors:
        """Scores by one reward; see `RewardScores.of`."""
        return cls({name: RewardScores.of(early, final)})

    @property
    def num_prompts(self) -> int:
        """Prompts."""
        return self._shape[0]

    @property
    def num_images(self) -> int:
        """Finished candidates per prompt: the pool."""
        return self._shape[1]

    @property
    def num_steps(self) -> int:
        """Denoising steps of the loop."""
        return self._shape[2]

    @property
    def not_finite(self) -> int:
        """Scores that are NaN or infinite, over all rewards, early and final."""
        parts = [
            array for scores in self.rewards.values() for array in (scores.early, scores.final)
        ]
        return sum(int((~np.isfinite(array)).sum()) for array in parts)

    @property
    def _shape(self) -> tuple[int, ...]:
        return next(iter(self.rewards.values())).early.shape

    def values(self) -> Floats:
        """What an image is worth, float64 `(prompts, images)`, finite.

        With one reward its final score. With several, which have no common unit, the mean over
        rewards of the image's rank among its prompt's whole pool, from 0 (worst) to 1 (best). An
        image without a finite final score is worth as little as the worst of its prompt.
        """
        finals = [worst_if_broken(scores.final) for scores in self.rewards.values()]
        if len(finals) == 1:
            return finals[0]
        from scipy.stats import rankdata

        shares = [(rankdata(f, axis=1) - 1) / max(1, self.num_images - 1) for f in finals]
        worth: Floats = np.mean(shares, axis=0)
        return worth


def read_scores(path: Path) -> ScoreTensors:
    """Read scores from a file; `docs/tune.md` describes the formats.

    Raises:
        ConfigError: there is no such file, its kind or its arrays are not known, or they do not fit
            together.
    """
    if path.is_dir():
        raise ConfigError(
            f"{str(path)!r} is a folder; give a file of scores that ends in {', '.join(_READERS)}."
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"Scores {str(path)!r} must end in {', '.join(_READERS)}; convert them.")
    try:
        arrays = reader(path)
        return _tensors(arrays)
    except FileNotFoundError as error:
        raise ConfigError(f"Scores {str(path)!r} do not exist; check the path.") from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"Scores {str(path)!r} cannot be read ({error}); save them anew."
        ) from error
    except ConfigError as error:
        raise ConfigError(f"Scores {str(path)!r}: {error}") from error


def _read_numpy(path: Path) -> Arrays:
    loaded = _unpickled(partial(np.load, path, allow_pickle=False))
    if isinstance(loaded, np.ndarray):
        return {"scores": loaded}
    with loaded as file:
        return {key: _unpickled(partial(file.__getitem__, key)) for key in file.files}


def _unpickled(load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except ValueError as error:
        # NumPy says so of arrays of objects and of anything that it cannot make out.
        raise ConfigError(
            "an array is damaged or pickled, and pickles run code; save plain float arrays."
        ) from error


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            texts = (file.metadata() or {}).get("prompts")
            if texts is not None:
                arrays["prompts"] = np.array([str(text) for text in json.loads(texts)])
    except (SafetensorError, TypeError, ValueError) as error:
        raise ConfigError(f"the file cannot be read ({error}); save it anew.") from error
    return arrays


_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npz": _read_numpy,
    ".safetensors": _read_safetensors,
    ".npy": _read_numpy,
}
_LEAVES = ("early", "final")
_BESIDE = ("sigmas", "prompts")


def _tensors(arrays: Arrays) -> ScoreTensors:
    parts: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        name, _, leaf = key.rpartition("/")
        if key == "scores":
            leaf = "early"
        elif key in _BESIDE:
            continue
        elif leaf not in _LEAVES:
            raise ConfigError(_unknown_key(key))
        if leaf in parts.setdefault(name or "reward", {}):
            raise ConfigError("`scores` and `early` are both there; give one of them.")
        parts[name or "reward"][leaf] = array
    if not parts:
        raise ConfigError(f"there are no scores, only {list(arrays)}; give `early` or `scores`.")
    sigmas, prompts = arrays.get("sigmas"), arrays.get("prompts")
    return ScoreTensors(
        {name: _reward(name, leaves) for name, leaves in parts.items()},
        sigmas=None if sigmas is None else tuple(_floats("sigmas", sigmas, 1).tolist()),
        prompts=None if prompts is None else tuple(str(text) for text in prompts.ravel()),
    )


def _reward(name: str, leaves: Arrays) -> RewardScores:
    if "early" not in leaves:
        prefix = "" if name == "reward" else f"{name}/"
        raise ConfigError(f"`{prefix}final` has no `{prefix}early` beside it; give both.")
    try:
        return RewardScores.of(leaves["early"], leaves.get("final"))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _unknown_key(key: str) -> str:
    known = ("early", "final", "scores", *_BESIDE)
    return (
        f"`{key}` is not known.{nearest_hint(key, known)} Allowed: {', '.join(known)}, and with "
        "several rewards NAME/early and NAME/final; rename it."
    )


def _floats(name: str, array: ArrayLike, dimensions: int) -> Floats:
    given = np.asarray(array)
    if given.dtype.kind not in "fiu":
        raise ConfigError(f"`{name}` holds {given.dtype}; give real numbers.")
    if given.ndim != dimensions or 0 in given.shape:
        axes = {1: "(steps,)", 2: "(prompts, images)", 3: "(prompts, images, steps)"}[dimensions]
        raise ConfigError(f"`{name}` has the shape {given.shape}; give {axes}, none of them 0.")
    return given.astype(np.float64)
