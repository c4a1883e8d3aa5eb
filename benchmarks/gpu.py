"""TTSnap on pipelines as large as SDXL and FLUX.1, random weights, on one big GPU.

    python -m benchmarks.gpu [--device cuda] [--sizes sdxl flux] [--quick] [--output FOLDER]
    python -m benchmarks.gpu --tiny --device cpu --output FOLDER     # the same code in seconds

Needs a GPU of about 80 GiB and no network; see `benchmarks.full_size` for what is full size and
what is not. Per pipeline:

* prices: FLOPs and seconds of a step, of a verdict by the VAE, and of a preview by a tiny decoder;
* equal budget: what fits into the cost of best-of-N, counted in FLOPs and in seconds. Early
  estimates are decoded by the tiny decoder; the noise-aware schedule is timed with a plain reward,
  as the adapters of a noise-aware one add next to nothing to a verdict;
* row gate: TTSnap without rewards, which keeps all, against the plain pipeline call;
* micro-batches: time per denoiser row and peak memory by `max_rows`;
* attention: the native kernels against xformers, or why xformers cannot be used;
* survivors: the winner of a search against the same seed drawn alone.

Alternatives are interleaved, and repeated less where the time limit asks for it. Peaks count what
torch allocated, weights included. A section that runs out of memory says so and the rest goes on.
Without --output the figures go to `docs/benchmarks`; that is refused on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_budget as budget
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
from benchmarks.timing import Deadline
from gensift.denoising.modules import denoisers_of
from gensift.errors import DeviceError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
QUICK = Extent(rounds=1, budget=4, candidates=8)


def build(name: str, arguments: argparse.Namespace, folder: Path) -> Subject:
    """The pipeline `name` with its reward and preview decoder on the device."""
    architecture = (TINY if arguments.tiny else FULL)[name]
    dtype, device = DTYPES[arguments.dtype], arguments.device
    side = {"sdxl": arguments.sdxl_size, "flux": arguments.flux_size}[name]
    return Subject(
        name=name,
        pipe=build_pipeline(name, architecture, device, dtype),
        reward=build_reward(TINY_CLIP if arguments.tiny else None, device, dtype),
        preview_decoder=save_preview_decoder(architecture, device, dtype, folder / name),
        arguments={
            "height": side,
            "width": side,
            "num_inference_steps": arguments.steps,
            **architecture.arguments,
        },
        device=device,
    )


def measure(subject: Subject, extent: Extent, deadline: Deadline) -> dict[str, Any]:
    """All figures of one pipeline."""
    denoiser = denoisers_of(subject.pipe)[0]
    found: dict[str, Any] = {
        "denoiser": type(denoiser).__name__,
        "denoiser_parameters": sum(p.numel() for p in denoiser.parameters()),
        "dtype": str(next(denoiser.parameters()).dtype).removeprefix("torch."),
        "weights": f"random; text encoders of {TEXT_LAYERS} layers",
        "arguments": subject.arguments,
    }
    prices = budget.prices(subject, extent.rounds)
    found["prices"] = budget.describe_prices(prices)
    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "equal_budget": budget.equal_budget,
        "row_gate": sections.row_gate,
        "micro_batches": sections.micro_batches,
        "attention": sections.attention,
        "survivors": sections.survivors,
    }
    for name, section in parts.items():
        estimate = sections.seconds_per_round(name, subject, extent, prices)
        rounds = deadline.affordable(extent.rounds, estimate)
        _say(subject, f"{name}: {rounds} x {estimate:.1f} s, {deadline.left_s:.0f} s left")
        if rounds == 0:
            found[name] = {"skipped": f"one round takes {estimate:.0f} s, beyond the time limit"}
            continue
        found[name] = _or_out_of_memory(partial(section, subject, extent, rounds, prices))
    return found


def _or_out_of_memory(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except (torch.OutOfMemoryError, DeviceError) as error:
        reason = " ".join(str(error).split())[:300]
    torch.cuda.empty_cache()
    return {"out_of_memory": reason}


def _say(subject: Subject, text: str) -> None:
    print(f"[{subject.name}] {text}", flush=True)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    full = Extent()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=tuple(FULL), default=list(FULL))
    parser.add_argument("--tiny", action="store_true", help="small widths, for tests")
    parser.add_argument("--quick", action="store_true", help="one round of fewer candidates")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sdxl-size", type=int, default=1024, help="pixels; 512 is quicker")
    parser.add_argument("--flux-size", type=int, default=512)
    parser.add_argument("--budget", type=int, help=f"N of best-of-N; default {full.budget}")
    parser.add_argument(
        "--candidates", type=int, help=f"of the other sections; default {full.candidates}"
    )
    parser.add_argument("--rounds", type=int, help=f"repetitions; default {full.rounds}")
    parser.add_argument("--time-limit-s", type=float, default=540.0, help="building included")
    parser.add_argument("--output", type=Path, help="folder; default docs/benchmarks")
    arguments = parser.parse_args(given)
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


def main(given: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    arguments = parse(given)
    extent, folder = extent_of(arguments), arguments.output or FOLDER
    whole = Deadline(arguments.time_limit_s)
    figures: dict[str, Any] = {"extent": vars(extent), "pipelines": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for index, name in enumerate(arguments.sizes):
            own = Deadline(whole.left_s / (len(arguments.sizes) - index))
            start = time.perf_counter()
            subject = build(name, arguments, Path(scratch))
            _say(subject, f"built in {time.perf_counter() - start:.0f} s")
            figures["pipelines"][name] = measure(subject, extent, own)
            # After each, so that a later failure loses nothing.
            publish("gpu", figures, folder)
            del subject
            gc.collect()
            torch.cuda.empty_cache()
    plot(figures["pipelines"], folder / "gpu.png")


if __name__ == "__main__":
    main()
