"""`gensift calibrate`: make a cache for a model and a kind of run, and say what it is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from apps.commands.command_line import collect, takes_options_of
from apps.commands.zoo import Json
from apps.console import log, only_json, out, say, write_json
from apps.jobs.options import Dtype, GenerateOptions
from apps.jobs.preparation import load_models, resolve_call
from apps.jobs.prompts import gather_prompts
from caches.options import CalibrationOptions
from gensift.config import check, from_dict, option
from gensift.errors import ConfigError

if TYPE_CHECKING:
    from caches.calibrate import Calibration

DEFAULT_MODEL = "shapes-flux"


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(CalibrationOptions):
    """Options of `gensift calibrate`; those shared with `generate` mean the same."""

    prompt: tuple[str, ...] = option((), help="Text to calibrate on; repeat it for several.")
    prompts: str | None = option(None, help="File of prompts: .txt, .jsonl or .csv; 20 of them do.")
    model: str | None = option(None, help="Zoo name, folder or hub id; shapes-flux by default.")
    steps: int | None = option(
        None, minimum=2, help="Denoising steps; by default what the model asks for."
    )
    guidance_scale: float | None = option(None, minimum=0, help="Strength of guidance.")
    call: tuple[str, ...] = option((), help="Argument of the pipeline's own call as key=value.")
    scheduler: str | None = option(None, help="Solver in place of the model's own.")
    output: str | None = option(
        None, help="Profile to write (.json); a picture of the schedule is put beside it."
    )
    dtype: Dtype = option(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="float32, bfloat16, float16, or auto.",
    )
    device: str = option("auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.output is None:
            yield "`output` is missing; give --output PROFILE.json"
        elif Path(self.output).suffix.lower() != ".json":
            yield f"`output` is {self.output!r}; end it in .json"
        elif not Path(self.output).absolute().parent.is_dir():
            yield f"`output` is {self.output!r}, in a folder that is not there; make it"


PANELS = {
    "What to run": (
        "prompt",
        "prompts",
        "model",
        "steps",
        "guidance_scale",
        "scheduler",
        "call",
        "seed",
    ),
    "What to calibrate": (
        "cache",
        "target_speedup",
        "max_error",
        "threshold",
        "closed_loop",
        "residual",
        "mend",
        "max_reuse",
        "num_bubbling",
        "always_last",
        "output",
    ),
    "How to run": ("batch_prompts", "dtype", "device"),
}


@takes_options_of(CalibrateOptions, PANELS, {})
def calibrate(*, as_json: Json = False, **given: Any) -> None:
    """Calibrate a feature cache on uncached runs; the profile is used by generate --cache.

    Example: gensift calibrate --prompts prompts.txt --target-speedup 2 --output profile.json
    """
    options = from_dict(CalibrateOptions, collect(CalibrateOptions, given))
    prompts = gather_prompts(options.prompt, options.prompts)
    with only_json(as_json):
        found = _calibrate(options, prompts)
        _write(found, Path(options.output or ""))
    if as_json:
        write_json({"schedule": found.schedule, **found.profile.report})
        return
    _show(found)
    say(f"Profile: {options.output}; use it by generate --cache {options.output}")


def _calibrate(options: CalibrateOptions, prompts: list[str]) -> Calibration:
    from caches.calibrate import calibrate as calibrate_cache

    same = ("steps", "guidance_scale", "call", "scheduler", "seed", "dtype", "device")
    shared = GenerateOptions(**{name: getattr(options, name) for name in same})
    pipe, _ = load_models(shared, options.model or DEFAULT_MODEL, {})
    call, _, _ = resolve_call(shared, pipe)
    own = {field.name for field in dataclasses.fields(CalibrationOptions)}
    settings = CalibrationOptions(**{name: getattr(options, name) for name in own})
    with log.status("Calibrating", spinner="dots") as status:
        return calibrate_cache(
            pipe,
            prompts,
            settings,
            on_stage=lambda name: status.update(f"Calibrating: {name}"),
            **call,
        )


def _write(found: Calibration, path: Path) -> None:
    from caches.picture import draw_schedule
    from caches.profile import write_profile

    try:
        write_profile(path, found.profile)
        draw_schedule(found, path.with_suffix(".png"))
    except OSError as error:
        raise ConfigError(
            f"`output` is {str(path)!r}, which cannot be written ({error}); choose another."
        ) from error


def _show(found: Calibration) -> None:
    table = Table("part", "computed", "reused", "steps computed", box=None, padding=(0, 2, 0, 0))
    for name, updates in found.schedule.items():
        reused = found.num_steps - len(updates)
        table.add_row(name, str(len(updates)), str(reused), _ranges(updates))
    out.print(table)
    for name, error in found.variants.items():
        out.print(f"{name}: error {error:.4f} on the prompts fitted to", markup=False)
    out.print(
        f"speed-up of the denoiser: {found.predicted_speedup:.2f} predicted; of the whole "
        f"denoising: {found.measured_speedup:.2f} measured"
    )
    out.print(f"error on held-out prompts: {found.error:.4f} of the size of the latents")


def _ranges(steps: tuple[int, ...]) -> str:
    """Such as "0-3, 5, 8"."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][-1] + 1:
            parts[-1].append(step)
        else:
            parts.append([step])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
