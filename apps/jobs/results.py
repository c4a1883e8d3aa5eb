"""What one finished prompt leaves in the run files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from apps.jobs.shared_previews import with_previews_of, write_previews
from gensift.conversion import strict_json
from gensift.protocols import JsonObject
from gensift.runs import RunFiles
from gensift.trace import PromptTrace, Trace
from samplers.exchange import Exchange
from samplers.output import PromptResult, SamplerOutput

if TYPE_CHECKING:
    from PIL.Image import Image

    from apps.jobs.job import Job


def write_prompt(files: RunFiles, job: Job, output: SamplerOutput, index: int) -> JsonObject:
    """Write the samples of a prompt and its trace; return its results line.

    The line is what makes the prompt finished, so a crash before it leaves only files that the
    next run overwrites.

    Args:
        files: of the run.
        job: whose prompt it is.
        output: of the sampler, for this one prompt.
        index: of the prompt.
    """
    line = _write_samples(files, job, output, index)
    _write_trace(files, job, _numbered(output.trace, index), output.results[0], index)
    return line


def write_shared_prompt(
    files: RunFiles, job: Job, output: SamplerOutput, index: int, exchange: Exchange
) -> JsonObject:
    """The same for a prompt whose candidates several processes have drawn.

    Each writes its own samples into the folder that they share; the first makes the trace of them.
    """
    line = _write_samples(files, job, output, index)
    trace = _numbered(output.trace, index)
    if exchange.rank > 0:
        write_previews(files, trace, index, exchange.rank)
    exchange.gather(None)
    if exchange.rank == 0:
        whole = with_previews_of(files, trace, index, exchange.size)
        result = output.results[0]
        samples = _all_samples(files, job, result.samples, line)
        _write_trace(files, job, whole, replace(result, samples=samples), index)
    return line


def _numbered(trace: Trace, index: int) -> Trace:
    return Trace(prompts=tuple(replace(p, prompt_index=index) for p in trace.prompts))


def _write_samples(files: RunFiles, job: Job, output: SamplerOutput, index: int) -> JsonObject:
    (result,) = output.results
    return {
        "prompt": result.prompt,
        "prompt_index": index,
        **({"own": own} if (own := job.row(index).own) else {}),
        "samples": [
            _write_sample(files, job, result, index, rank) for rank in range(len(result.samples))
        ],
        "cost": output.cost.to_dict(),
        "first_reward": result.first_reward,
        "mean_reward": result.mean_reward,
    }


def _all_samples(
    files: RunFiles, job: Job, samples: Sequence[object], line: JsonObject
) -> Sequence[object]:
    """`samples`, those that other processes have written read from their files."""
    return [
        job.modality.read_sample(files, written) if sample is None else sample
        for sample, written in zip(samples, line["samples"], strict=True)
    ]


def _write_sample(
    files: RunFiles, job: Job, result: PromptResult, index: int, rank: int
) -> JsonObject:
    reward = result.rewards[rank] if result.rewards else None
    about = {
        "prompt": result.prompt,
        "seed": str(result.seeds[rank]),
        "sampler": str(job.config["sampler"]),
        "config": strict_json(job.config),
        "reward": strict_json(reward),
    }
    written = job.modality.write_sample(files, result.samples[rank], f"{index:04d}-{rank}", about)
    return {
        **written,
        "seed": result.seeds[rank],
        "reward": reward,
        "rewards": result.all_rewards[rank] if result.all_rewards else {},
    }


def _write_trace(files: RunFiles, job: Job, trace: Trace, result: PromptResult, index: int) -> None:
    stem = job.trace_name(index)
    files.write_json(f"{stem}.json", {"prompts": [p.to_dict() for p in trace.prompts]})
    if not trace.prompts or not trace.prompts[0].stages or not job.modality.has_tree:
        return
    picture = trace.picture([_by_candidate(trace.prompts[0], result)])
    files.write_image(f"{stem}.png", picture, {"prompt": result.prompt}, compress_level=1)


def _by_candidate(trace: PromptTrace, result: PromptResult) -> dict[int, Image]:
    candidates = {seed: candidate for candidate, seed in enumerate(trace.seeds)}
    return {
        candidates[seed]: sample
        for seed, sample in zip(result.seeds, result.samples, strict=True)
        if seed in candidates
    }
