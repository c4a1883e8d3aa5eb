"""`gensift train-reward`: make a reward noise-aware, and say how much better it ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from apps.commands.command_line import collect, takes_options_of
from apps.commands.zoo import Json
from apps.console import only_json, out, say, write_json
from apps.jobs.preparation import load_one_reward
from apps.jobs.progress import progress_bar
from apps.training.noise_aware.options import NoiseAwareTraining
from gensift.config import from_dict, to_dict
from gensift.conversion import strict_json
from gensift.files import write_atomically
from gensift.protocols import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rewards.network import NetworkReward
    from rewards.noise_aware.recording import Recording
    from rewards.protocol import Reward

PANELS = {
    "How to train": (
        "storage",
        "rank",
        "since",
        "until",
        "steps_per_phase",
        "joint_steps",
        "batch_prompts",
        "learning_rate",
        "within_prompt",
        "across_prompts",
        "held_out",
        "seed",
        "save_every",
    )
}
REPORT = "report.json"


@takes_options_of(NoiseAwareTraining, PANELS, {})
def train_reward(
    recording: Annotated[Path, typer.Argument(help="Folder that gensift record wrote.")],
    *,
    reward: Annotated[str, typer.Option(help="What to make noise-aware; as it was recorded.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the finished weights.")],
    reward_option: Annotated[
        list[str] | None, typer.Option(help="Option of the reward as key=value.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    as_json: Json = False,
    **given: object,
) -> None:
    """Train noise-aware weights on a recording; the same command again goes on where it stopped.

    The finished folder is used by --reward-option noise_aware=DIR. Under accelerate launch every
    process takes its share of each batch.

    Example: gensift train-reward recording --reward shapes-clip --output noise-aware
    """
    from accelerate import Accelerator

    from gensift.pipelines.loading import resolve_device
    from rewards.noise_aware.recording import Recording
    from rewards.noise_aware.storage import save_weights

    config = from_dict(NoiseAwareTraining, collect(NoiseAwareTraining, given))
    trajectories = Recording(recording)
    accelerator = Accelerator(cpu=resolve_device(device) == "cpu")
    # Of several processes each has a device of its own.
    own = str(accelerator.device) if accelerator.num_processes > 1 else device
    base: Any = load_one_reward(reward, ["noise_aware=false", *(reward_option or ())], own)
    trajectories.scores(base.name)
    weights = _train(base, trajectories, output / "training", config, accelerator, as_json)
    # A process that ends with the group still open may be aborted by its threads.
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    save_weights(weights, output, reward_name=base.name)
    report = _report(base, trajectories, output, config)
    write_atomically(output / REPORT, (strict_json(report, indent=2) + "\n").encode())
    if as_json:
        write_json(report)
        return
    _show(report["before"], report["after"], trajectories.sigmas)
    say(f"Noise-aware weights: {output}; use them by --reward-option noise_aware={output}")


def _train(
    base: NetworkReward,
    recording: Recording,
    folder: Path,
    config: NoiseAwareTraining,
    accelerator: Accelerator,
    as_json: bool,
) -> Any:
    from apps.training.noise_aware.training import phases, train, trained_steps

    curriculum = phases(len(trained_steps(recording, config)), config)
    steps = sum(phase.length for phase in curriculum)
    with only_json(as_json), progress_bar("optimiser steps", steps) as bar:
        return train(
            base,
            recording,
            folder,
            config,
            accelerator=accelerator,
            on_step=lambda done, total, loss: bar(1),
        )


def _report(
    base: NetworkReward, recording: Recording, output: Path, config: NoiseAwareTraining
) -> JsonObject:
    """How well the reward ranks held-out candidates per step, as it was and with its weights."""
    from apps.training.noise_aware.training import split_prompts
    from rewards.noise_aware.storage import load_noise_aware

    _, held_out = split_prompts(recording, config.held_out)
    return {
        "config": to_dict(config),
        "held_out_prompts": len(held_out),
        "sigmas": recording.sigmas,
        "before": _ranking(base, recording, held_out),
        "after": _ranking(load_noise_aware(base, output), recording, held_out),
    }


def _ranking(
    reward: Reward, recording: Recording, prompts: Sequence[int]
) -> list[dict[str, float]]:
    """Ranking quality per step over the held-out prompts; without any there is none to tell."""
    if not prompts:
        return []
    from rewards.noise_aware.scoring import score_recording
    from rewards.protocol import reward_name
    from samplers.tuning.ranking import ranking_quality

    with progress_bar("prompts scored", len(prompts)) as bar:
        early = score_recording(reward, recording, prompts, on_prompt=bar)
    final = recording.scores(reward_name(reward), prompts)
    return [asdict(quality) for quality in ranking_quality(early.numpy(), final.numpy())]


def _show(
    before: list[dict[str, float]], after: list[dict[str, float]], sigmas: Sequence[float]
) -> None:
    figures = ("tau", "tacc", "tgap")
    heads = [f"{name} {when}" for name in figures for when in ("before", "after")]
    table = Table("step", "sigma", *heads, box=None, padding=(0, 2, 0, 0))
    for step, (old, new, sigma) in enumerate(zip(before, after, sigmas, strict=False)):
        cells = [f"{row[name]:.3f}" for name in figures for row in (old, new)]
        table.add_row(str(step), f"{sigma:.3f}", *cells)
    out.print(table)
