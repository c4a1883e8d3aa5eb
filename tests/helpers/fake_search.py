"""A sampler, pipeline and rewards that cost nothing, for tests of the command line.

In a test: `fake_search.install(monkeypatch.setattr, monkeypatch.setitem)`, then call
`apps.commands.generate.main`. In a process of its own: `python -m helpers.fake_search OPTIONS`,
where FAKE_KILL=search:2 (or line:2) ends the process by SIGKILL in the search for (or just before
the results line of) the prompt with index 2.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from PIL import Image

from gensift.config import check, option
from gensift.cost import Cost
from gensift.errors import RewardError
from gensift.pipelines import loading
from gensift.registry import Registry
from gensift.trace import PromptTrace, Stage, Trace
from samplers.base import Plan, Request, SamplerBase
from samplers.output import PlannedStage, PromptResult, SamplerOutput

STEPS = 10
MEASURED = [7]
"""What a budget in seconds measures: the number of candidates it allows."""


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    num_candidates: int | None = option(None, minimum=1, help="candidates per prompt")
    num_outputs: int = option(1, minimum=1, help="samples returned")
    budget: float | None = option(None, minimum=0, help="most it may cost")
    budget_unit: Literal["nfe", "flops", "seconds"] = option("nfe", help="unit of the budget")
    max_rows: int | None = option(None, minimum=1, help="rows at a time")
    keep: tuple[float, ...] = option((0.5,), minimum=0, maximum=1, help="shares kept")

    def __post_init__(self) -> None:
        both = self.num_candidates is not None and self.budget is not None
        check(self, ["`num_candidates` and `budget` are both given; give one"] if both else [])


@dataclass(frozen=True, kw_only=True)
class FakePlan(Plan):
    num_prompts: int = 1
    guidance_rows: int = 2


class FakePipeline:
    dtype = "torch.float32"
    config: ClassVar[dict[str, Any]] = {}

    def set_progress_bar_config(self, **settings: Any) -> None: ...


class FakeSampler(SamplerBase[FakeConfig, FakePlan]):
    """Searches nothing: the reward of a candidate is a digit of its seed."""

    name: ClassVar[str] = "fake"
    pipelines: ClassVar[str] = "fake pipelines"
    config_class: ClassVar[type[Any]] = FakeConfig
    default_model: ClassVar[str] = "shapes-flux"

    def plan_request(self, request: Request) -> FakePlan:
        steps = request.arguments.get("num_inference_steps", STEPS)
        count = self.config.num_candidates or 16
        if self.config.budget is not None:
            measured = self.config.budget_unit == "seconds"
            count = MEASURED[0] if measured else int(self.config.budget // steps)
        return FakePlan(
            num_candidates=count,
            cost=Cost(
                nfe=count * steps,
                denoiser_calls=None,
                decodes=count,
                reward_calls=dict.fromkeys(self.reward, count),
            ),
            stages=(PlannedStage(steps - 1, steps, count, self.config.num_outputs),),
            peak_rows=min(count, self.config.max_rows or count),
        )

    def draw(self, request: Request) -> SamplerOutput:
        (prompt,), (seeds,) = request.prompts, request.seeds
        if "nan" in self.reward:
            raise RewardError("Reward nan gave no finite score for any candidate; check it.")
        for done in range(len(seeds)):
            request.progress("denoise", done + 1, len(seeds))
        scores = [seed % 1000 / 1000 for seed in seeds]
        best = sorted(range(len(seeds)), key=lambda c: -scores[c])[: self.config.num_outputs]
        images = {c: Image.new("RGB", (8, 8), (seeds[c] % 256, c, 0)) for c in range(len(seeds))}
        result = PromptResult(
            prompt=prompt,
            samples=[images[c] for c in best],
            rewards=tuple(scores[c] for c in best),
            all_rewards=tuple(dict.fromkeys(self.reward, scores[c]) for c in best),
            seeds=tuple(seeds[c] for c in best),
            first_reward=scores[0],
            mean_reward=sum(scores) / len(scores),
        )
        return SamplerOutput(
            results=(result,),
            cost=self.plan_request(request).cost + Cost(seconds={"denoise": 0.5}),
            trace=Trace(prompts=(_trace(prompt, seeds, scores, best, images),)),
        )


def _trace(prompt: str, seeds: Any, scores: Any, best: Any, images: Any) -> PromptTrace:
    everyone = tuple(range(len(seeds)))
    final = Stage(
        step_index=STEPS - 1,
        num_inference_steps=STEPS,
        alive=everyone,
        scores={"shapes-clip": tuple(scores)},
        combined=tuple(scores),
        kept=tuple(best),
        is_final=True,
        previews=images,
    )
    return PromptTrace(prompt=prompt, prompt_index=0, seeds=tuple(seeds), stages=(final,))


def install(set_attribute: Any, set_item: Any) -> None:
    """Put the fakes in place of the real ones, by functions like those of `monkeypatch`."""
    import apps.jobs.preparation
    import apps.jobs.sampler_classes
    import samplers.registry

    samplers_found: Registry[Any] = Registry("sampler", "none")
    samplers_found.register("fake", FakeSampler)
    rewards_found: Registry[Any] = Registry("reward", "none")
    for name in ("shapes-clip", "clip-score", "nan"):
        rewards_found.register(name, object())
    rewards = types.ModuleType("rewards.registry")
    rewards.__dict__.update(
        REWARDS=rewards_found, load_reward=_load_reward, check_reward=lambda name, given: None
    )
    guidance = types.ModuleType("samplers.diffusion.guidance")
    guidance.__dict__.update(guidance_argument=lambda pipeline: "true_cfg_scale")
    set_item(sys.modules, "rewards.registry", rewards)
    set_item(sys.modules, "samplers.diffusion.guidance", guidance)
    set_attribute(samplers.registry, "SAMPLERS", samplers_found)
    set_attribute(apps.jobs.sampler_classes, "SAMPLERS", samplers_found)
    set_attribute(apps.jobs.preparation, "silence_libraries", lambda: None)
    set_attribute(loading, "call_defaults", lambda pipeline: {"num_inference_steps": STEPS})
    _install_loading(set_attribute)


def _load_reward(spec: str, *, device: str = "cpu") -> Any:
    return lambda pictures, prompts: [0.0] * len(prompts)


def _install_loading(set_attribute: Any) -> None:
    load_pipeline, resolve_device = loading.load_pipeline, loading.resolve_device

    def load(name: str, **settings: Any) -> Any:
        return FakePipeline() if name == "shapes-flux" else load_pipeline(name, **settings)

    def resolve(name: str) -> str:
        return "cpu" if name == "auto" else resolve_device(name)

    set_attribute(loading, "load_pipeline", load)
    set_attribute(loading, "resolve_device", resolve)


def _kill_when_told() -> None:
    import apps.jobs.run as run

    where, _, index = os.environ.get("FAKE_KILL", "").partition(":")
    if not where:
        return
    target = {"search": (run.Search, "draw"), "line": (run.RunFolder, "append_result")}[where]
    original = getattr(*target)

    def killer(self: Any, what: Any, **more: Any) -> Any:
        at = what["prompt_index"] if where == "line" else what
        if at == int(index):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, what, **more)

    setattr(*target, killer)


if __name__ == "__main__":
    from apps.commands.generate import main

    install(setattr, lambda mapping, key, value: mapping.__setitem__(key, value))
    _kill_when_told()
    raise SystemExit(main())
