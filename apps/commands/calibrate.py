"""`gensift calibrate`: make a cache for a model and a kind of run, and say what it is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from apps.commands.command_line import collect, flag, takes_options_of
from apps.commands.zoo import Json
from apps.console import log, only_json, out, say, write_json
from apps.jobs.options import Dtype, GenerateOptions
from apps.jobs.preparation import load_models, resolve_call
from apps.jobs.prompts import gather_prompts
from caches.options import CalibrationOptions
from caches.registry import CACHES, DEFAULT_METHOD, options_class_of
from gensift.config import check, describe, from_dict, option, parse_overrides
from gensift.errors import ConfigError, GensiftError

if TYPE_CHECKING:
    from caches.calibrate import Calibration

DEFAULT_MODEL = "shapes-flux"
SHARED = ("target_speedup", "max_error")
"""Options of every calibration that say what to calibrate; the others say how to run."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Options of `gensift calibrate` itself; those shared with `generate` mean the same."""

    prompt: tuple[str, ...] = option((), help="Text to calibrate on; repeat it for several.")
    prompts: str | None = option(None, help="File of prompts: .txt, .jsonl or .csv; 20 of them do.")
    model: str | None = option(None, help="Zoo name, folder or hub id; shapes-flux by default.")
    steps: int | None = option(
        None, minimum=2, help="Denoising steps; by default what the model asks for."
    )
    guidance_scale: float | None = option(None, minimum=0, help="Strength of guidance.")
    call: tuple[str, ...] = option((), help="Argument of the pipeline's own call as key=value.")
    scheduler: str | None = option(None, help="Solver in place of the model's own.")
    cache: str = option(
        DEFAULT_METHOD, help="Method; --list-options names all, with the options of each."
    )
    override: tuple[str, ...] = option(
        (), help="Option of the method as key=value, whatever package the method is from."
    )
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
        if self.output is None:
            yield "`output` is missing; give --output PROFILE.json"
        elif Path(self.output).suffix.lower() != ".json":
            yield f"`output` is {self.output!r}; end it in .json"
        elif not Path(self.output).absolute().parent.is_dir():
            yield f"`output` is {self.output!r}, in a folder that is not there; make it"


# Those that are known without a look at what else is installed have flags of their own.
METHODS = {name: options_class_of(name) for name in CACHES.own_names()}
CONFIGS = (CalibrateOptions, CalibrationOptions, *METHODS.values())


def _added_by(cls: type[CalibrationOptions]) -> tuple[str, ...]:
    """Names of the options that a method has beside those of every calibration."""
    shared = {row.name for row in describe(CalibrationOptions)}
    return tuple(row.name for row in describe(cls) if row.name not in shared)


NAMES = {"override": ("--option", "-o")}
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
    "What to calibrate": ("cache", *SHARED, "override", "output"),
    **{f"Options of {name}": _added_by(cls) for name, cls in METHODS.items()},
    "How to run": ("batch_prompts", "dtype", "device"),
}

ListOptions = Annotated[
    bool, typer.Option("--list-options", help="Show the methods and their options, and stop.")
]


@takes_options_of(CONFIGS, PANELS, NAMES)
def calibrate(*, as_json: Json = False, list_options: ListOptions = False, **given: object) -> None:
    """Calibrate a feature cache on uncached runs; the profile is used by generate --cache.

    Example: gensift calibrate --prompts prompts.txt --target-speedup 2 --output profile.json
    """
    if list_options:
        _show_options()
        return
    own = {row.name for row in describe(CalibrateOptions)}
    run = {name: value for name, value in given.items() if name in own}
    options = from_dict(CalibrateOptions, collect(CalibrateOptions, run))
    asked = {name: value for name, value in given.items() if name not in own}
    settings = _settings(options, asked)
    prompts = gather_prompts(options.prompt, options.prompts)
    with only_json(as_json):
        found = _calibrate(options, settings, prompts)
        _write(found, Path(options.output or ""))
    if as_json:
        write_json({"schedule": found.schedule, **found.profile.report})
        return
    _show(found)
    say(f"Profile: {options.output}; use it by generate --cache {options.output}")


def _settings(options: CalibrateOptions, given: Mapping[str, object]) -> CalibrationOptions:
    """The options of the method that was chosen.

    Raises:
        ConfigError: an option was given that the method does not have.
    """
    cls = options_class_of(options.cache)
    known = {name for row in describe(cls) for name in (row.name, row.formerly)}
    strange = [
        name for name, value in given.items() if value not in (None, []) and name not in known
    ]
    if strange:
        owners = [name for name, other in METHODS.items() if strange[0] in _added_by(other)]
        listed = ", ".join(flag(row.name) for row in describe(cls))
        raise ConfigError(
            f"`{flag(strange[0])}` is no option of {options.cache}, but of {', '.join(owners)}; "
            f"{options.cache} takes {listed}."
        )
    kept = {name: value for name, value in given.items() if name in known}
    return from_dict(cls, collect(cls, kept) | parse_overrides(options.override, cls))


def _calibrate(
    options: CalibrateOptions, settings: CalibrationOptions, prompts: list[str]
) -> Calibration:
    from caches.calibrate import calibrate as calibrate_cache

    same = ("steps", "guidance_scale", "call", "scheduler", "dtype", "device")
    shared = GenerateOptions(seed=settings.seed, **{name: getattr(options, name) for name in same})
    pipe, _ = load_models(shared, options.model or DEFAULT_MODEL, {})
    call, _, _ = resolve_call(shared, pipe)
    with log.status("Calibrating", spinner="dots") as status:
        return calibrate_cache(
            pipe,
            prompts,
            settings,
            on_stage=lambda name: status.update(f"Calibrating: {name}"),
            **call,
        )


def _show_options() -> None:
    """Print every method with a table of its options."""
    for name in CACHES.names():
        out.print(f"{name}: {CACHES.about(name).get('summary', '')}", markup=False)
        try:
            rows = describe(options_class_of(name))
        except GensiftError as error:
            out.print(f"cannot be used. {error}", markup=False)
            continue
        table = Table("-o", "type", "default", "meaning", box=None, padding=(0, 2, 0, 0))
        for row in rows:
            default = "-" if row.default is None else str(row.default)
            table.add_row(*map(escape, (row.name, row.type, default, row.help)))
        out.print(table)


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
