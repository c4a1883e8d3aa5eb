"""What one finished prompt leaves in the run files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from apps.jobs.report_episodes import write_episode
from apps.jobs.shared_previews import with_previews_of, write_previews
from gensift.conversion import strict_json
from gensift.runs import RunFiles
from gensift.trace import PromptTrace, Trace
from samplers.exchange import Exchange
from samplers.policy.episode import ActedEpisode


def write_prompt(
    files: RunFiles, config: Mapping[str, Any], output: Any, index: int, stem: str
) -> dict[str, Any]:
    """Write the pictures of a prompt and its trace as `stem`.json and .png; return its line.

    The line is what makes the prompt finished, so a crash before it leaves only files that the
    next run overwrites. `output` is the `SamplerOutput` of this one prompt.
    """
    line = _write_samples(files, config, output, index)
    _write_trace(files, _numbered(output.trace, index), output.results[0], stem)
    return line


def write_shared_prompt(
    files: RunFiles,
    config: Mapping[str, Any],
    output: Any,
    index: int,
    stem: str,
    exchange: Exchange,
) -> dict[str, Any]:
    """The same for a prompt whose candidates several processes have drawn.

    Each writes its own pictures into the folder that they share; the first makes the trace of them.
    """
    line = _write_samples(files, config, output, index)
    trace = _numbered(output.trace, index)
    if exchange.rank > 0:
        write_previews(files, trace, index, exchange.rank)
    exchange.gather(None)
    if exchange.rank == 0:
        whole = with_previews_of(files, trace, index, exchange.size)
        _write_trace(files, whole, _with_pictures(files, output.results[0], line), stem)
    return line


def _numbered(trace: Trace, index: int) -> Trace:
    return Trace(prompts=tuple(replace(p, prompt_index=index) for p in trace.prompts))


def _write_samples(
    files: RunFiles, config: Mapping[str, Any], output: Any, index: int
) -> dict[str, Any]:
    (result,) = output.results
    return {
        "prompt": result.prompt,
        "prompt_index": index,
        "samples": [
            _write_sample(files, config, result, index, rank) for rank in range(len(result.samples))
        ],
        "cost": output.cost.to_dict(),
        "first_reward": result.first_reward,
        "mean_reward": result.mean_reward,
    }


def _with_pictures(files: RunFiles, result: Any, line: Mapping[str, Any]) -> Any:
    """`result` with the pictures that other processes have written."""
    from PIL import Image

    samples = list(result.samples)
    for rank, written in enumerate(line["samples"]):
        if samples[rank] is None:
            with Image.open(files.path / written["file"]) as picture:
                picture.load()
            samples[rank] = picture
    return replace(result, samples=samples)


def _write_sample(
    files: RunFiles, config: Mapping[str, Any], result: Any, index: int, rank: int
) -> dict[str, Any]:
    reward = result.rewards[rank] if result.rewards else None
    scored = {
        "seed": result.seeds[rank],
        "reward": reward,
        "rewards": result.all_rewards[rank] if result.all_rewards else {},
    }
    sample = result.samples[rank]
    if isinstance(sample, str):
        return {"text": sample, **scored}
    name = f"{index:04d}-{rank}.png"
    chunks = {
        "prompt": result.prompt,
        "seed": str(result.seeds[rank]),
        "sampler": str(config["sampler"]),
        "config": strict_json(config),
        "reward": strict_json(reward),
    }
    if isinstance(sample, ActedEpisode):
        return {**write_episode(files, sample, name, chunks), **scored}
    if sample is not None:  # else another process, which drew it, writes it
        files.write_image(name, sample, chunks)
    return {"file": name, **scored}


def _write_trace(files: RunFiles, trace: Trace, result: Any, stem: str) -> None:
    files.write_json(f"{stem}.json", {"prompts": [p.to_dict() for p in trace.prompts]})
    if not trace.prompts or not trace.prompts[0].stages or isinstance(result.samples[0], str):
        return
    picture = trace.picture([_by_candidate(trace.prompts[0], result)])
    files.write_image(f"{stem}.png", picture, {"prompt": result.prompt}, compress_level=1)


def _by_candidate(trace: PromptTrace, result: Any) -> dict[int, Any]:
    candidates = {seed: candidate for candidate, seed in enumerate(trace.seeds)}
    return {
        candidates[seed]: sample
        for seed, sample in zip(result.seeds, result.samples, strict=True)
        if seed in candidates
    }
