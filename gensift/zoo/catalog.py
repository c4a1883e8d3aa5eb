"""The zoo: tiny models that ship with gensift, their tasks and their recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gensift.errors import ConfigError
from gensift.registry import import_target
from gensift.zoo.answers import AnswerChecker


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One embedded model.

    Attributes:
        name: also the name of its folder.
        family: class that it is a real member of.
        task: what it does, in words.
        train: lazy `module:function(folder, steps)` that trains it and returns the finished folder.
        evaluate: lazy `module:function()` that returns its figures as a dict.
        reward: name of the reward that its samples are scored by when none is named.
        checker: lazy `module:attribute` of an `AnswerChecker`, where answers are right or wrong.
    """

    name: str
    family: str
    task: str
    train: str
    evaluate: str
    reward: str | None = None
    checker: str | None = None


ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            name="shapes-flux",
            family="FluxPipeline",
            task="text -> 64x64 scene of coloured shapes",
            train="apps.training.zoo.shapes_flux:publish",
            evaluate="apps.training.evaluation.shapes_flux:evaluate",
            reward="shapes-clip",
        ),
        ZooEntry(
            name="shapes-clip",
            family="open_clip CLIP",
            task="score of a scene against a prompt",
            train="apps.training.zoo.shapes_clip:publish",
            evaluate="apps.training.evaluation.shapes_clip:evaluate",
        ),
        ZooEntry(
            name="shapes-infinity",
            family="InfinityPipeline",
            task="text -> 64x64 scene of coloured shapes, scale by scale",
            train="apps.training.zoo.shapes_infinity:publish",
            evaluate="apps.training.evaluation.shapes_infinity:evaluate",
            reward="shapes-clip",
        ),
        ZooEntry(
            name="shapes-bfm",
            family="BFMPipeline",
            task="class (colour and shape) -> 64x64 picture, blockwise",
            train="apps.training.zoo.shapes_bfm:publish",
            evaluate="apps.training.evaluation.shapes_bfm:evaluate",
            reward="shapes-clip",
        ),
        ZooEntry(
            name="shapes-sit",
            family="BFMPipeline",
            task="class (colour and shape) -> 64x64 picture, by a dense model",
            train="apps.training.zoo.shapes_sit:publish",
            evaluate="apps.training.evaluation.shapes_bfm:evaluate_dense",
            reward="shapes-clip",
        ),
        ZooEntry(
            name="countdown-llada",
            family="LLaDAPipeline",
            task="three numbers and a target -> arithmetic expression",
            train="apps.training.zoo.countdown_llada:publish",
            evaluate="apps.training.evaluation.countdown_llada:evaluate",
            reward="countdown",
            checker="gensift.zoo.countdown.checker:CHECKER",
        ),
        ZooEntry(
            name="metaworld-policy",
            family="DiffusionPolicyPipeline",
            task="state of a robot arm and a goal -> chunk of actions, six Meta-World tasks",
            train="apps.training.zoo.metaworld_policy:publish",
            evaluate="apps.training.evaluation.metaworld_policy:evaluate",
        ),
        ZooEntry(
            name="shapes-clip-noise-aware",
            family="sigma adapter of shapes-clip",
            task="score of an early estimate against a prompt",
            train="apps.training.zoo.noise_aware_shapes_clip:publish",
            evaluate="apps.training.zoo.noise_aware_evaluation:evaluate",
        ),
    )
}


def checker_of(reward: str) -> AnswerChecker | None:
    """What tells right answers from wrong ones by a reward; None where nothing does."""
    for entry in ZOO.values():
        if entry.checker is not None and entry.reward == reward:
            checker: AnswerChecker = import_target(entry.checker, f"The checker of {entry.name!r}")
            return checker
    return None


def model_folder(name: str) -> Path:
    """Folder of an embedded model.

    Raises:
        ConfigError: no such model, or its weights are missing.
    """
    if name not in ZOO:
        raise ConfigError(f"{name!r} is not a zoo model. Zoo: {', '.join(ZOO)}.")
    folder = Path(__file__).parent / "models" / name
    if not folder.is_dir():
        raise ConfigError(
            f"The weights of zoo model {name!r} are missing from {folder}; reinstall gensift or "
            f"train it: gensift zoo train {name}."
        )
    return folder
