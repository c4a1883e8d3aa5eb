"""What one finished prompt leaves in the run folder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gensift.conversion import strict_json
from gensift.runs import RunFolder
from gensift.trace import PromptTrace, Trace


def write_prompt(
    folder: RunFolder, config: Mapping[str, Any], output: Any, index: int, stem: str
) -> dict[str, Any]:
    """Write the pictures, the trace as `stem`.json and .png, and last the line of a prompt.

    The line is what makes the prompt finished, so a crash before it leaves only files that the
    next run overwrites. `output` is the `SamplerOutput` of this one prompt.
    """
    (result,) = output.results
    samples = [
        _write_sample(folder, config, result, index, rank) for rank in range(len(result.samples))
    ]
    trace = Trace(prompts=tuple(replace(p, prompt_index=index) for p in output.trace.prompts))
    _write_trace(folder, trace, result, stem)
    line = {
        "prompt": result.prompt,
        "prompt_index": index,
        "samples": samples,
        "cost": output.cost.to_dict(),
        "first_reward": result.first_reward,
        "mean_reward": result.mean_reward,
    }
    folder.append_result(line)
    return line


def _write_sample(
    folder: RunFolder, config: Mapping[str, Any], result: Any, index: int, rank: int
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
    folder.write_image(name, sample, chunks)
    return {"file": name, **scored}


def _write_trace(folder: RunFolder, trace: Trace, result: Any, stem: str) -> None:
    folder.write_json(f"{stem}.json", {"prompts": [p.to_dict() for p in trace.prompts]})
    if not trace.prompts or not trace.prompts[0].stages or isinstance(result.samples[0], str):
        return
    from PIL import Image

    buffer = io.BytesIO()
    finished = _by_candidate(trace.prompts[0], result)
    trace.plot(images=[finished]).savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        folder.write_image(f"{stem}.png", picture, {"prompt": result.prompt})


def _by_candidate(trace: PromptTrace, result: Any) -> dict[int, Any]:
    candidates = {seed: candidate for candidate, seed in enumerate(trace.seeds)}
    return {
        candidates[seed]: sample
        for seed, sample in zip(result.seeds, result.samples, strict=True)
        if seed in candidates
    }
