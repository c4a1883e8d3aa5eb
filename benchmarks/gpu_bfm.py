"""Blockwise flow matching of size XL beside SiT-XL/2, for `benchmarks.gpu`.

Latents of 4 x 32 x 32, which are 256 tokens, with guidance: two rows a picture. Per batch size:

* steps: milliseconds of one network evaluation, by what it does about the trunk (full, frn, hold)
  and by SiT, and their ratios of time beside those of multiply-accumulates;
* pictures: the same for whole pictures without decoding, all at 48 steps;
* residency: time and peak memory with one segment on the device at a time over those with all of
  them, bytes moved per call, and whether latents are equal bit for bit.

parameter_bytes says what the weights take on the device in both states. The bound is trunk, shared
parts and 1.2 segments; FRN comes on top once it is used. Peaks and `allocated_mib` are taken before
SiT is built, and include the VAE. SiT has BFM's kind of block, see `gensift.pipelines.bfm.sit`.

Weights are random, so there is no figure of quality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.flow_models import SIZES, FlowSize, random_blockwise, random_dense
from benchmarks.timing import Deadline, Timing, interleaved, ratio, summary, within_limits
from gensift.pipelines.bfm.macs import StepMacs, bfm_macs, sit_macs
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.randomness import make_generators

NAMES = ("bfm",)
"""What `--sizes` calls these models."""
MODES = ("full", "frn", "hold")
SIT = "sit"
EVALUATIONS = 10
"""In one timed run: a single one is too short beside waiting for the GPU."""
GUIDANCE_SCALE = 1.5
SEGMENTS_HELD = 1.2


def measure(
    *, is_tiny: bool, device: str, dtype: torch.dtype, rounds: int, deadline: Deadline
) -> dict[str, Any]:
    """The figures of both models."""
    size = SIZES["tiny" if is_tiny else "XL"]
    blockwise = random_blockwise(size, device, dtype)
    found = _described(blockwise, "denoiser") | {
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "random",
    }

    def per_batch(section: Callable[..., dict[str, Any]], *pipes: BFMPipeline) -> dict[str, Any]:
        runs = {n: partial(section, *pipes, size, n, rounds, device) for n in size.pictures}
        return {str(n): within_limits(run, deadline) for n, run in runs.items()}

    found["parameter_bytes"] = within_limits(partial(parameter_bytes, blockwise, device), deadline)
    found["residency"] = per_batch(residency, blockwise)
    dense = random_dense(size, device, dtype)  # not before, as it would be in the peaks
    found |= _described(dense, SIT)
    found["steps"] = per_batch(steps, blockwise, dense)
    found["pictures"] = per_batch(pictures, blockwise, dense)
    return found


def _described(pipe: BFMPipeline, name: str) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in pipe.transformer.parameters())
    return {name: type(pipe.transformer).__name__, f"{name}_parameters": count}


def parameter_bytes(pipe: BFMPipeline, device: str) -> dict[str, Any]:
    """Weights of the transformer on the device, with all segments and with one, and the bound."""
    model = pipe.transformer
    parts = {name: _bytes(part) for name, part in model.named_children() if name != "segments"}
    segment = _bytes(model.segments[0])
    bound = parts["trunk"] + parts["shared"] + SEGMENTS_HELD * segment
    everything = {"bytes": _bytes(model), "allocated_mib": _allocated_mib(device)}
    with one_segment_of(pipe, device):
        held = model.residency.bytes_on_device
        single = {"bytes": held, "allocated_mib": _allocated_mib(device)}
    return {
        "parts": parts | {"segment": segment},
        "all_segments": everything,
        "one_segment": single,
        "bound": bound,
        "within_bound": held <= bound,
    }


@contextmanager
def one_segment_of(pipe: BFMPipeline, device: str) -> Iterator[None]:
    """Keep one segment on the device, and bring all of them back at the end."""
    pipe.enable_segment_residency(device)
    try:
        yield
    finally:
        pipe.disable_segment_residency()
        pipe.to(device)


@dataclass(frozen=True)
class Drawn:
    """What a call made.

    Attributes:
        latents: in host memory.
        evaluations: rows that went through each part of the model.
        bytes_moved: of segments, to the device.
    """

    latents: Tensor
    evaluations: dict[str, int]
    bytes_moved: int


def draw(pipe: BFMPipeline, size: FlowSize, count: int, mode: str = "full") -> Drawn:
    """Latents of `count` pictures, the same ones at each call."""
    before = _bytes_moved(pipe)
    classes = pipe.transformer.config.num_classes
    output: Any = pipe(
        class_labels=[seed % classes for seed in range(count)],
        num_inference_steps=size.steps,
        feature_mode=mode,  # type: ignore[arg-type]
        guidance_scale=GUIDANCE_SCALE,
        generator=make_generators(range(count)),
        output_type="latent",
    )
    return Drawn(output.images.cpu(), output.evaluations, _bytes_moved(pipe) - before)


def residency(
    pipe: BFMPipeline, size: FlowSize, count: int, rounds: int, device: str
) -> dict[str, Any]:
    """One segment at a time over all of them, `count` pictures per call."""
    runs = {mode: partial(draw, pipe, size, count, mode) for mode in MODES}
    whole: dict[str, list[Timing]] = {mode: [] for mode in MODES}
    single: dict[str, list[Timing]] = {mode: [] for mode in MODES}

    def visit_whole() -> None:
        _extend(whole, interleaved(runs, 1, device, warm_ups=1))

    def visit_single() -> None:
        with one_segment_of(pipe, device):
            _extend(single, interleaved(runs, 1, device, warm_ups=1))

    visits = [visit_whole, visit_single]
    for index in range(rounds):
        for visit in visits if index % 2 == 0 else visits[::-1]:
            visit()
    compared = {mode: _one_over_all(single[mode], whole[mode]) for mode in MODES}
    return {"rows": 2 * count, **compared}


def _extend(kept: dict[str, list[Timing]], found: Mapping[str, list[Timing]]) -> None:
    for name, timings in found.items():
        kept[name] += timings


def _one_over_all(single: list[Timing], whole: list[Timing]) -> dict[str, Any]:
    expected = whole[0].result.latents
    return {
        "all_segments": summary(whole),
        "one_segment": summary(single),
        "one_over_all": ratio(_seconds(single), _seconds(whole)),
        "bytes_moved_per_call": max(timing.result.bytes_moved for timing in single),
        "is_identical": all(torch.equal(t.result.latents, expected) for t in [*whole, *single]),
    }


def steps(
    blockwise: BFMPipeline,
    dense: BFMPipeline,
    size: FlowSize,
    count: int,
    rounds: int,
    device: str,
) -> dict[str, Any]:
    """Single network evaluations, of as many rows as `count` pictures with guidance."""
    calls = evaluations_of(blockwise.transformer, dense.transformer, 2 * count, device)
    runs = {name: partial(_repeat, call) for name, call in calls.items()}
    timings = interleaved(runs, rounds, device, warm_ups=1)
    macs = bfm_macs(blockwise.transformer.config)
    per_row = {
        "full": macs.full,
        "frn": macs.approximated,
        "hold": macs.stack,
        SIT: sit_macs(dense.transformer.config).full,
    }
    found: dict[str, Any] = {"rows": 2 * count}
    for name, against_sit in _over_sit(timings, per_row).items():
        each = [seconds / EVALUATIONS * 1e3 for seconds in _seconds(timings[name])]
        found[name] = {
            "ms_per_evaluation": float(np.median(each)),
            "ms_range": (min(each), max(each)),
            "macs_per_row": per_row[name],
            **against_sit,
        }
    return found


def evaluations_of(model: Any, sit: Any, rows: int, device: str) -> dict[str, Callable[[], Any]]:
    """One network evaluation of every kind, in the middle of the first segment."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    shape = (rows, config.in_channels, config.sample_size, config.sample_size)
    # A GPU runs ahead of Python only if nothing has to come from the host.
    inputs = {
        "hidden_states": torch.randn(shape, generator=generator).to(device),
        "timestep": torch.full((rows,), (1 + model.boundaries[1]) / 2, device=device),
        "class_labels": torch.arange(rows, device=device) % (model.null_label + 1),
        "segment": 0,
    }
    features = model(**inputs).features
    half = torch.full((rows,), 0.5, device=device)
    return {
        "full": partial(model, **inputs),
        "frn": partial(model, **inputs, features=features, residual_weight=half),
        "hold": partial(model, **inputs, features=features),
        SIT: partial(sit, **inputs),
    }


def _repeat(call: Callable[[], Any]) -> None:
    for _ in range(EVALUATIONS):
        call()


def pictures(
    blockwise: BFMPipeline,
    dense: BFMPipeline,
    size: FlowSize,
    count: int,
    rounds: int,
    device: str,
) -> dict[str, Any]:
    """Whole calls for `count` pictures; multiply-accumulates are of the rows that were run."""
    runs = {mode: partial(draw, blockwise, size, count, mode) for mode in MODES}
    runs[SIT] = partial(draw, dense, size, count)
    timings = interleaved(runs, rounds, device, warm_ups=1)
    macs: dict[str, StepMacs] = dict.fromkeys(MODES, bfm_macs(blockwise.transformer.config))
    macs[SIT] = sit_macs(dense.transformer.config)
    rows_run = {name: timings[name][0].result.evaluations for name in runs}
    per_picture = {name: macs[name].of_run(rows_run[name]) // count for name in runs}
    found: dict[str, Any] = {"rows": 2 * count, "steps": size.steps}
    for name, against_sit in _over_sit(timings, per_picture).items():
        each = [seconds / count for seconds in _seconds(timings[name])]
        found[name] = {
            "seconds_per_picture": float(np.median(each)),
            "seconds_range": (min(each), max(each)),
            "evaluations": rows_run[name],
            "macs_per_picture": per_picture[name],
            **against_sit,
        }
    return found


def _over_sit(
    timings: Mapping[str, list[Timing]], macs: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Ratios of time, round by round, and of multiply-accumulates."""
    dense = _seconds(timings[SIT])
    return {
        name: {
            "time_over_sit": ratio(_seconds(timings[name]), dense),
            "macs_over_sit": macs[name] / macs[SIT],
        }
        for name in timings
    }


def _seconds(timings: list[Timing]) -> list[float]:
    return [timing.seconds for timing in timings]


def _bytes(part: nn.Module) -> int:
    return sum(value.nbytes for value in [*part.parameters(), *part.buffers()])


def _bytes_moved(pipe: BFMPipeline) -> int:
    manager = getattr(pipe.transformer, "residency", None)
    return 0 if manager is None else int(manager.bytes_moved)


def _allocated_mib(device: str) -> float | None:
    """What torch has allocated at the moment; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.memory_allocated() / 2**20
