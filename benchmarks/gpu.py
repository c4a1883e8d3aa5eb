"""Searches and caches on pipelines as large as SDXL, FLUX.1, Wan 2.1 and Infinity, on one big GPU.

    python -m benchmarks.gpu [--device cuda] [--sizes sdxl flux] [--quick] [--output FOLDER]
    python -m benchmarks.gpu --sections caches --sizes flux --name gpu-caches-flux
    python -m benchmarks.gpu --sections caches --sizes wan --wan-frames 81 --name gpu-caches-wan
    python -m benchmarks.gpu --sections next_scale --sizes infinity
    python -m benchmarks.gpu --sizes llada --name gpu-text
    python -m benchmarks.gpu --sizes bfm --name gpu-bfm
    python -m benchmarks.gpu --tiny --device cpu --output FOLDER     # the same code in seconds

Needs a GPU of about 80 GiB and no network; see `benchmarks.full_size` for what is full size and
what is not. Weights are random. Per pipeline:

* prices: unit costs in FLOPs and seconds of a step, of a scoring by the VAE, and of a preview by a
  tiny decoder;
* equal budget: what fits into the cost of best-of-N, counted in FLOPs and in seconds. Early
  estimates are decoded by the tiny decoder; the noise-aware schedule is timed with a plain reward,
  as the adapters of a noise-aware one add next to nothing to a scoring;
* row gate: TTSnap without rewards, which keeps all, against the plain pipeline call;
* micro-batches: time per denoiser row and peak memory by `max_rows`;
* attention: the native kernels against xformers, or why xformers cannot be used;
* survivors: the winner of a search against the same seed drawn alone;
* caches: speed-up against the ideal, overhead and memory of ours; those of diffusers and cache-dit;
* next_scale: drawing and TTS-VAR at 256, 512 and 1024 pixels, see `benchmarks.gpu_next_scale`.

Of a pipeline for videos (wan) only the caches are measured, of one that draws scale by scale
(infinity) only next_scale. A language model (llada) and a blockwise flow model (bfm) have sections
of their own, all of which are measured: see `benchmarks.gpu_text` and `benchmarks.gpu_bfm`. None of
them is among the default sizes.
Alternatives are interleaved, and repeated less where the time limit asks for it. Peaks count what
torch allocated, weights included. A section that runs out of memory says so and the rest goes on.
Without --output the figures go to `docs/benchmarks`; that is refused on a CPU. A choice of sections
gets a file of its own, so that it does not take the place of all of them.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_bfm, gpu_text
from benchmarks import gpu_budget as budget
from benchmarks import gpu_caches as caches
from benchmarks import gpu_next_scale as next_scale
from benchmarks import gpu_sections as sections
from benchmarks.full_size import (
    FULL,
    TEXT_LAYERS,
    TINY,
    TINY_CLIP,
    build_pipeline,
    build_reward,
    save_preview_decoder,
)
from benchmarks.gpu_plot import plot
from benchmarks.gpu_subject import Extent, Subject
from benchmarks.results import FOLDER, publish
from benchmarks.timing import Deadline, or_out_of_memory
from gensift.denoising.modules import denoisers_of
from samplers.diffusion.schedule import UnitCosts

Section = Callable[[Subject, Extent, int, dict[str, UnitCosts]], dict[str, Any]]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
QUICK = Extent(rounds=1, budget=4, candidates=8)
SIZES = ("sdxl", "flux")
"""Measured where nothing else is asked for."""
SECTIONS: dict[str, Section | Mapping[str, Any]] = {
    "equal_budget": budget.equal_budget,
    "row_gate": sections.row_gate,
    "micro_batches": sections.micro_batches,
    "attention": sections.attention,
    "survivors": sections.survivors,
    "caches": caches.PARTS,
    "next_scale": next_scale.PARTS,
}
MEASURED_APART: dict[str, Callable[..., dict[str, Any]]] = {
    name: module.measure for module in (gpu_text, gpu_bfm) for name in module.NAMES
}
"""Models with sections of their own."""
NO_SCALES = "the pipeline does not draw scale by scale"
NO_STEPS = "the pipeline has no denoising steps"
NOT_OF_VIDEOS = {
    "equal_budget": "the reward scores pictures, and there is no tiny decoder of videos",
    "row_gate": "it is about batches of candidates; one video fills the GPU",
    "micro_batches": "it is about batches of candidates; one video fills the GPU",
    "attention": "it is about batches of candidates; one video fills the GPU",
    "survivors": "it compares pictures, pixel by pixel",
    "next_scale": NO_SCALES,
}
PLOTTED = {"equal_budget", "micro_batches"}


def build(name: str, arguments: argparse.Namespace, folder: Path) -> Subject:
    """The pipeline `name` on the device, with what scores its pictures and decodes previews."""
    architecture = (TINY if arguments.tiny else FULL)[name]
    dtype, device = DTYPES[arguments.dtype], arguments.device
    subject = Subject(
        name=name,
        pipe=build_pipeline(name, architecture, device, dtype),
        reward=None,
        preview_decoder="vae",
        arguments={"num_inference_steps": arguments.steps, **architecture.arguments},
        device=device,
    )
    if subject.is_video:
        frames = arguments.wan_frames or subject.arguments["num_frames"]
        return replace(subject, arguments=subject.arguments | {"num_frames": frames})
    reward = build_reward(TINY_CLIP if arguments.tiny else None, device, dtype)
    if subject.is_next_scale:
        return replace(subject, reward=reward, arguments=architecture.arguments)
    side = {"sdxl": arguments.sdxl_size, "flux": arguments.flux_size}[name]
    return replace(
        subject,
        reward=reward,
        preview_decoder=save_preview_decoder(architecture, device, dtype, folder / name),
        arguments={"height": side, "width": side, **subject.arguments},
    )


def measure(
    subject: Subject, extent: Extent, deadline: Deadline, chosen: Sequence[str] = tuple(SECTIONS)
) -> dict[str, Any]:
    """The figures of one pipeline, of the sections `chosen`."""
    denoiser = denoisers_of(subject.pipe)[0]
    found: dict[str, Any] = {
        "denoiser": type(denoiser).__name__,
        "denoiser_parameters": sum(p.numel() for p in denoiser.parameters()),
        "dtype": str(next(denoiser.parameters()).dtype).removeprefix("torch."),
        "weights": f"random; text encoders of {TEXT_LAYERS} layers",
        "arguments": subject.arguments,
    }
    unit_costs, found["prices"] = _unit_costs(subject, extent, chosen)

    def figures_of(name: str, section: Section | Mapping[str, Any]) -> dict[str, Any]:
        if (reason := why_not(name, subject)) is not None:
            return {"skipped": reason}
        if isinstance(section, Mapping):
            return {part: figures_of(f"{name}.{part}", own) for part, own in section.items()}
        estimate = sections.seconds_per_round(name, subject, extent, unit_costs)
        rounds = deadline.affordable(extent.rounds, estimate)
        _say(subject, f"{name}: {rounds} x {estimate:.1f} s, {deadline.left_s:.0f} s left")
        if rounds == 0:
            return {"skipped": f"one round takes {estimate:.0f} s, beyond the time limit"}
        return or_out_of_memory(partial(section, subject, extent, rounds, unit_costs))

    return found | {name: figures_of(name, SECTIONS[name]) for name in chosen}


def why_not(section: str, subject: Subject) -> str | None:
    """Why a section is not about such a pipeline; None where it is."""
    if subject.is_next_scale:
        return None if section.startswith("next_scale") else NO_STEPS
    if subject.is_video:
        return NOT_OF_VIDEOS.get(section)
    return NO_SCALES if section == "next_scale" else None


def _unit_costs(
    subject: Subject, extent: Extent, chosen: Sequence[str]
) -> tuple[dict[str, UnitCosts], dict[str, Any]]:
    """What the chosen sections need to know beforehand, and the same for JSON."""
    if subject.is_next_scale:
        token = next_scale.token_seconds(subject)
        return {"seconds": UnitCosts(step=token)}, {"seconds": {"token": token}}
    if subject.is_video or set(chosen) == {"caches"}:
        step = caches.step_seconds(subject, extent)
        return {"seconds": UnitCosts(step=step)}, {"seconds": {"step": step}}
    unit_costs = budget.unit_costs(subject, extent.rounds)
    return unit_costs, budget.describe_unit_costs(unit_costs)


def _say(subject: Subject, text: str) -> None:
    print(f"[{subject.name}] {text}", flush=True)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    full = Extent()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=(*FULL, *MEASURED_APART), default=list(SIZES))
    parser.add_argument(
        "--sections", nargs="+", choices=tuple(SECTIONS), default=list(SECTIONS), help="default all"
    )
    parser.add_argument("--tiny", action="store_true", help="small widths, for tests")
    parser.add_argument("--quick", action="store_true", help="one round of fewer candidates")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sdxl-size", type=int, default=1024, help="pixels; 512 is quicker")
    parser.add_argument("--flux-size", type=int, default=512)
    parser.add_argument("--wan-frames", type=int, help="4 k + 1 of them, at most 81; default 81")
    parser.add_argument("--budget", type=int, help=f"N of best-of-N; default {full.budget}")
    parser.add_argument(
        "--candidates", type=int, help=f"of the other sections; default {full.candidates}"
    )
    parser.add_argument("--rounds", type=int, help=f"repetitions; default {full.rounds}")
    parser.add_argument("--time-limit-s", type=float, default=540.0, help="building included")
    parser.add_argument("--output", type=Path, help="folder; default docs/benchmarks")
    parser.add_argument("--name", help="of the files; default gpu, or gpu- and chosen sections")
    arguments = parser.parse_args(given)
    if arguments.wan_frames is not None and arguments.wan_frames not in range(1, 82, 4):
        parser.error(f"--wan-frames is {arguments.wan_frames}; give 1, 5, 9 ... or 81")
    if arguments.name is None:
        is_whole = set(arguments.sections) == set(SECTIONS)
        arguments.name = "gpu" if is_whole else "-".join(["gpu", *arguments.sections])
    apart = [name for name in arguments.sizes if name in MEASURED_APART]
    if apart and set(arguments.sections) != set(SECTIONS):
        parser.error(f"--sections was given, but {apart[0]} has sections of its own; leave one out")
    if arguments.output is None and (arguments.tiny or arguments.device == "cpu"):
        parser.error("a tiny pipeline or a CPU is no result to publish; give --output FOLDER")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda was asked for but torch finds no GPU; use --tiny --device cpu")
    return arguments


def extent_of(arguments: argparse.Namespace) -> Extent:
    """How much to measure; single options go before --quick."""
    base = QUICK if arguments.quick else Extent()
    return Extent(
        rounds=arguments.rounds or base.rounds,
        budget=arguments.budget or base.budget,
        candidates=arguments.candidates or base.candidates,
    )


def figures_of(
    name: str, arguments: argparse.Namespace, extent: Extent, deadline: Deadline, scratch: Path
) -> dict[str, Any]:
    """Build the pipeline `name` and measure it."""
    if name in MEASURED_APART:
        return MEASURED_APART[name](
            is_tiny=arguments.tiny,
            device=arguments.device,
            dtype=DTYPES[arguments.dtype],
            rounds=extent.rounds,
            deadline=deadline,
        )
    start = time.perf_counter()
    subject = build(name, arguments, scratch)
    _say(subject, f"built in {time.perf_counter() - start:.0f} s")
    return measure(subject, extent, deadline, arguments.sections)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    arguments = parse(given)
    extent, folder = extent_of(arguments), arguments.output or FOLDER
    whole = Deadline(arguments.time_limit_s)
    figures: dict[str, Any] = {"extent": vars(extent), "pipelines": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for index, name in enumerate(arguments.sizes):
            own = Deadline(whole.left_s / (len(arguments.sizes) - index))
            figures["pipelines"][name] = figures_of(name, arguments, extent, own, Path(scratch))
            # After each, so that a later failure loses nothing.
            publish(arguments.name, figures, folder)
            gc.collect()
            torch.cuda.empty_cache()
    plotted = {name: own for name, own in figures["pipelines"].items() if PLOTTED & own.keys()}
    if plotted:
        plot(plotted, folder / f"{arguments.name}.png")


if __name__ == "__main__":
    main()
