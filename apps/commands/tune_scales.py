"""`gensift tune --sampler tts-var`: at which scales rewards can be trusted, and where to select."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from apps.commands.written_files import check_file
from apps.console import only_json, out, say, write_json
from apps.jobs.options import Dtype, GenerateOptions, reward_options
from apps.jobs.preparation import check_reward_names, default_reward, load_models, resolve_call
from apps.jobs.progress import progress_bar
from apps.jobs.prompts import gather_prompts
from gensift.config import option, save_file
from gensift.errors import ConfigError
from gensift.protocols import JsonObject

if TYPE_CHECKING:
    from samplers.autoregressive.consistency import Agreement, Floats
    from samplers.autoregressive.proposal import Proposal

SAMPLER = "tts-var"
DEFAULT_MODEL = "shapes-infinity"
DEFAULT_PROMPTS = 50


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Options of `gensift tune` that only TTS-VAR has; as in `generate` where the names are."""

    prompt: tuple[str, ...] = option((), help="Text to draw from; repeat it for several.")
    prompts: str | None = option(
        None,
        help=f"File of prompts: .txt, .jsonl or .csv. Default: {DEFAULT_PROMPTS} training prompts "
        "for the shapes models.",
    )
    model: str | None = option(
        None, help=f"Zoo name, folder or hub id; {DEFAULT_MODEL} by default."
    )
    num_candidates: int = option(16, minimum=2, help="Candidates per prompt.")
    threshold: float = option(
        0.6,
        minimum=0,
        maximum=1,
        help="Spearman correlation with the final reward from which rewards may choose.",
    )
    guidance_scale: float | None = option(None, minimum=0, help="Strength of guidance.")
    call: tuple[str, ...] = option((), help="Argument of the pipeline's own call as key=value.")
    max_rows: int | None = option(None, minimum=1, help="Most candidates drawn at a time.")
    dtype: Dtype = option(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="float32, bfloat16, float16, or auto.",
    )
    plot: str | None = option(None, help="Picture of the curve to write (.png).")


PANELS = {
    "With --sampler tts-var": (
        "prompt",
        "prompts",
        "model",
        "num_candidates",
        "threshold",
        "guidance_scale",
        "call",
        "max_rows",
        "dtype",
        "plot",
    )
}
NAMES = {"num_candidates": ("--num-candidates", "-n")}


@dataclass(frozen=True)
class Recording:
    """Scores, and what they are of.

    Attributes:
        scores: float64 `(prompts, candidates, scales)`.
        model, reward: names of what drew and of what scored.
        grids: token grid `(height, width)` of each scale.
    """

    scores: Floats
    model: str
    reward: str
    grids: tuple[tuple[int, int], ...]


def tune_scales(
    options: ScaleOptions,
    *,
    reward: str | None,
    reward_option: Sequence[str],
    seed: int,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw, score after every scale, and propose a schedule; the arguments are the shared options.

    Raises:
        GensiftError: at the first thing that is wrong, cheap things first.
    """
    plot = None if options.plot is None else Path(options.plot)
    check_file("--plot", plot, ".png")
    model = options.model or DEFAULT_MODEL
    prompts = choose_prompts(options, model)
    shared = GenerateOptions(
        reward=(reward or default_reward(model),),
        reward_option=tuple(reward_option),
        guidance_scale=options.guidance_scale,
        call=options.call,
        seed=seed,
        dtype=options.dtype,
        device=device,
        max_rows=options.max_rows,
    )
    with only_json(as_json):
        recording = _record(shared, model, prompts, options.num_candidates)
        curve, proposal = _measure(recording.scores, options.threshold, seed)
    _warn(recording.scores)
    schedule = proposal.generate_config()
    if output is not None:
        save_file(schedule, output)
    if plot is not None:
        _draw(curve, proposal, options.threshold, plot, recording.grids)
    if as_json:
        write_json(_document(recording, options.threshold, curve, proposal, schedule))
        return
    _show_curve(curve, recording)
    _show_proposal(proposal)
    for what, path in (("Schedule", output), ("Picture", plot)):
        if path is not None:
            say(f"{what}: {path}")


def choose_prompts(options: ScaleOptions, model: str) -> list[str]:
    """The prompts that were given, or training prompts of the shapes models.

    Raises:
        ConfigError: none was given and the model is no such one.
    """
    is_given = options.prompt or options.prompts is not None
    if is_given or not model.startswith("shapes-"):
        return gather_prompts(options.prompt, options.prompts)
    from gensift.zoo.shapes.split import training_meanings

    # Never held-out ones: what is measured on those must not have been tuned on them.
    chosen = random.Random(0).sample(training_meanings(), DEFAULT_PROMPTS)
    return [str(meaning) for meaning in chosen]


def _record(
    shared: GenerateOptions, model: str, prompts: Sequence[str], num_candidates: int
) -> Recording:
    from apps.jobs.devices import load_reward_on
    from gensift.pipelines.loading import call_defaults, resolve_device
    from samplers.autoregressive.score_recorder import record_scores
    from samplers.autoregressive.search import settings_of

    (name,) = shared.reward
    check_reward_names([name])
    of_reward = reward_options(shared, [name])[name]
    device = resolve_device(shared.device)
    pipeline, _ = load_models(shared, model, {})
    call, _, _ = resolve_call(shared, pipeline)
    # Refuses other models before the reward, which may be larger than the model, is loaded.
    scales, _ = settings_of(pipeline, call_defaults(pipeline) | call)
    reward = load_reward_on(device, name, of_reward, is_offloaded=False)
    with progress_bar("prompts drawn and scored", len(prompts)) as bar:
        scores = record_scores(
            pipeline,
            prompts,
            reward,
            num_candidates=num_candidates,
            seed=shared.seed,
            max_rows=shared.max_rows,
            on_prompt=bar,
            **call,
        )
    return Recording(scores, model, name, scales.scales)


def _measure(scores: Floats, threshold: float, seed: int) -> tuple[tuple[Agreement, ...], Proposal]:
    from samplers.autoregressive.consistency import consistency_curve
    from samplers.autoregressive.proposal import propose

    curve = consistency_curve(scores, seed=seed)
    return curve, propose(curve, threshold)


def _draw(
    curve: Sequence[Agreement],
    proposal: Proposal,
    threshold: float,
    path: Path,
    grids: Sequence[tuple[int, int]],
) -> None:
    from samplers.autoregressive.consistency_picture import draw_curve

    try:
        draw_curve(curve, proposal.schedule, threshold, path, grids)
    except OSError as error:
        raise ConfigError(
            f"`--plot` is {str(path)!r}, which cannot be written ({error.strerror}); choose "
            "another."
        ) from error


def _warn(scores: Floats) -> None:
    import numpy as np

    broken = int((~np.isfinite(scores)).sum())
    if broken:
        say(
            f"warning: {broken} scores are not finite; such candidates are left out at the scales "
            "concerned",
            style="yellow",
        )


def _show_curve(curve: Sequence[Agreement], recording: Recording) -> None:
    prompts, candidates, _ = recording.scores.shape
    _line(
        f"Agreement with the final reward, {recording.reward}: {prompts} prompts, {candidates} "
        "candidates each"
    )
    columns = ("scale", "grid", "Spearman", "95 %", "Pearson", "pooled", "best kept", "left out")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for at in curve:
        height, width = recording.grids[at.scale]
        table.add_row(
            str(at.scale),
            f"{height}x{width}",
            f"{at.spearman:.3f}",
            f"{at.low:.3f} to {at.high:.3f}",
            *(f"{figure:.3f}" for figure in (at.pearson, at.pooled_pearson, at.best_kept)),
            str(at.left_out),
        )
    out.print(table, highlight=False)


def _show_proposal(proposal: Proposal) -> None:
    schedule = proposal.schedule
    parts = [
        f"{verb} after {', '.join(map(str, scales))}"
        for verb, scales in (
            ("cluster", schedule.cluster_scales),
            ("resample", schedule.resample_scales),
        )
        if scales
    ]
    where = f"{', '.join(parts)} (scales, counted from 0)" if parts else "select nowhere"
    _line(f"Proposal: {where}: {proposal.reason}.")
    _line(f"Candidates after each scale, per finished one: {', '.join(map(str, schedule.widths))}")


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _document(
    recording: Recording,
    threshold: float,
    curve: Sequence[Agreement],
    proposal: Proposal,
    schedule: JsonObject,
) -> JsonObject:
    prompts, candidates, scales = recording.scores.shape
    return {
        "model": recording.model,
        "reward": recording.reward,
        "prompts": prompts,
        "candidates": candidates,
        "scales": scales,
        "grids": recording.grids,
        "threshold": threshold,
        "curve": curve,
        "proposal": proposal,
        "schedule": schedule,
    }
