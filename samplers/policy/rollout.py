"""Letting a policy act in simulation, and telling how often it gets there and how fast it plans."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image

from caches.cache import cache_of
from gensift.config import ready_or_fields, to_dict
from gensift.cost import Cost, Stopwatch
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.loading import call_defaults
from gensift.pipelines.policy.control import RecedingHorizon
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.randomness import candidate_seeds
from gensift.trace import PromptTrace, Trace
from gensift.zoo.metaworld.rollouts import Arena, Episode, OnFrame, Rollouts
from gensift.zoo.metaworld.tasks import OBSERVATION_DIM, TEST_SEED, check_task
from samplers.output import PlannedStage, Progress, PromptResult, SamplerOutput
from samplers.policy.config import PolicyConfig
from samplers.policy.episode import ActedEpisode
from samplers.policy.frames import Camera, strip

SUCCESS = "success"
"""Name of the only reward: 1 where Meta-World's own flag went up, else 0."""


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """What a call is going to do at most, known before it starts.

    Attributes:
        num_candidates: episodes per task.
        num_prompts: tasks.
        peak_rows: most robots in one evaluation.
        stages: of the scoring.
        cost: planned work if every episode goes on to its last step; successes make it less.
    """

    num_candidates: int
    num_prompts: int
    peak_rows: int
    stages: tuple[PlannedStage, ...]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return to_dict(self)


class PolicyRollout:
    """Episodes of a robot under a diffusion policy, one per held-out goal of a Meta-World task.

    Attributes:
        config: the options.
        is_reproducible: whether a seed gives an episode again in a plain call; it takes a robot.
    """

    name: ClassVar[str] = "policy"
    modality: ClassVar[str] = "action"
    pipelines: ClassVar[str] = "diffusion policies for Meta-World"
    config_class: ClassVar[type[PolicyConfig]] = PolicyConfig
    default_model: ClassVar[str] = "metaworld-policy"
    is_reproducible: ClassVar[bool] = False

    def __init__(
        self,
        reward: Any = None,
        config: PolicyConfig | None = None,
        *,
        keep_previews: bool = False,
        **options: Any,
    ) -> None:
        """Give either a ready `config` or its fields as `options`.

        Raises:
            ConfigError: an option is unknown or out of range, or a reward is given.
        """
        self.config = ready_or_fields(self.config_class, config, options)
        if reward:
            raise ConfigError(
                "A reward was given, but episodes are judged by the success of their task; leave "
                "it out."
            )

    @property
    def num_outputs(self) -> int:
        """Episodes reported per task."""
        return self.config.num_outputs or self.config.num_candidates

    def plan(
        self, pipeline: Any, prompts: int | str | Sequence[str] = 1, **pipeline_kwargs: Any
    ) -> RolloutPlan:
        """What a call with these arguments would do at most, without doing it."""
        arguments = self._arguments(pipeline, pipeline_kwargs)
        count = prompts if isinstance(prompts, int) else len(_tasks(prompts))
        episodes, steps = self.config.num_candidates, int(arguments["num_inference_steps"])
        chunks = -(-self.config.max_steps // pipeline.n_action_steps)
        return RolloutPlan(
            num_candidates=episodes,
            num_prompts=count,
            peak_rows=min(episodes, self.config.max_rows or episodes),
            stages=(PlannedStage(steps - 1, steps, episodes, self.num_outputs),),
            cost=Cost(
                nfe=count * episodes * chunks * steps,
                denoiser_calls=None,
                reward_calls={SUCCESS: count * episodes},
            ),
        )

    def __call__(
        self,
        pipeline: Any,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        on_frame: OnFrame = lambda number, environment, observation: None,
        **pipeline_kwargs: Any,
    ) -> SamplerOutput:
        """Act on tasks.

        Args:
            pipeline: a `DiffusionPolicyPipeline`.
            prompts: names of tasks.
            seed: base from which the seeds of the episodes derive.
            seeds: per task one for each episode, instead of `seed`.
            progress: told of finished episodes ("denoise").
            on_frame: shown each episode, by its number in the task, before its first action and
                after each.
            pipeline_kwargs: of the pipeline's call, such as `num_inference_steps`.

        Raises:
            UnknownNameError: there is no such task.
            UnsupportedPipelineError: the pipeline is no policy.
            MissingExtraError: Meta-World is not installed.
            ConfigError: an argument is out of range.
        """
        arguments, tasks = self._arguments(pipeline, pipeline_kwargs), _tasks(prompts)
        count = self.config.num_candidates
        groups = seeds or [candidate_seeds(seed, index, count) for index in range(len(tasks))]
        if [len(group) for group in groups] != [count] * len(tasks):
            raise ConfigError(
                f"Seeds were given for {[len(group) for group in groups]} episodes; give {count} "
                f"for each of {len(tasks)} tasks."
            )
        parts = [
            self._act(pipeline, arguments, task, index, groups[index], progress, on_frame)
            for index, task in enumerate(tasks)
        ]
        return SamplerOutput(
            results=tuple(result for result, _, _ in parts),
            cost=sum((cost for _, cost, _ in parts), Cost()),
            trace=Trace(prompts=tuple(trace for _, _, trace in parts)),
        )

    def _act(
        self,
        pipeline: Any,
        arguments: Mapping[str, Any],
        task: str,
        index: int,
        seeds: Sequence[int],
        progress: Progress | None,
        on_frame: OnFrame,
    ) -> tuple[PromptResult, Cost, PromptTrace]:
        """All episodes of one task, what they cost, and their seeds."""
        control, stopwatch = RecedingHorizon(pipeline, **arguments), Stopwatch()
        before = _reused(pipeline)
        with stopwatch.part("simulate"):
            parts = self._run(control, task, seeds, progress, on_frame)
        episodes = [episode for part in parts for episode in part.episodes]
        seconds = sum(sum(part.plan_seconds) for part in parts)
        steps, reused = int(arguments["num_inference_steps"]), _reused(pipeline) - before
        with stopwatch.part("draw"):  # acts once more, which is not counted
            acted = self._reported(control, task, episodes)
        cost = Cost(
            nfe=steps * sum(sum(part.plan_rows) for part in parts),
            denoiser_calls=steps * sum(len(part.plan_rows) for part in parts),
            reward_calls={SUCCESS: len(episodes)},
            cache_hits=reused,
            seconds={
                "plan": seconds,
                "simulate": stopwatch.seconds["simulate"] - seconds,
                "draw": stopwatch.seconds["draw"],
            },
        )
        scores = [float(episode.is_success) for episode in acted]
        result = PromptResult(
            prompt=task,
            samples=acted,
            rewards=tuple(scores),
            all_rewards=tuple({SUCCESS: score} for score in scores),
            seeds=tuple(episode.seed for episode in acted),
            first_reward=float(episodes[0].is_success),
            mean_reward=sum(episode.is_success for episode in episodes) / len(episodes),
        )
        trace = PromptTrace(prompt=task, prompt_index=index, seeds=tuple(seeds), stages=())
        return result, cost, trace

    def _run(
        self,
        control: RecedingHorizon,
        task: str,
        seeds: Sequence[int],
        progress: Progress | None,
        on_frame: OnFrame,
    ) -> list[Rollouts]:
        """Episodes of the first held-out goals, as many at once as are allowed."""
        arena, found = Arena(task, TEST_SEED), []
        size = self.config.max_rows or len(seeds)
        try:
            for start in range(0, len(seeds), size):
                goals = range(start, min(start + size, len(seeds)))
                own, limit = seeds[start : start + size], self.config.max_steps
                told = _numbered_from(start, on_frame)
                found.append(arena.run(control, goals, seeds=own, max_steps=limit, on_frame=told))
                if progress is not None:
                    progress("denoise", goals.stop, len(seeds))
        finally:
            arena.close()
        return found

    def _reported(
        self, control: RecedingHorizon, task: str, episodes: Sequence[Episode]
    ) -> list[ActedEpisode]:
        """Best first: successes, the quicker the better; the first one with pictures."""
        ranked = sorted(episodes, key=lambda one: (not one.is_success, one.steps))
        acted = [
            ActedEpisode(goal=one.goal, seed=one.seed, is_success=one.is_success, steps=one.steps)
            for one in ranked[: self.num_outputs]
        ]
        if self.config.frames:
            picture, problem = self._draw(control, task, ranked[0])
            acted[0] = replace(acted[0], strip=picture, no_strip=problem)
        return acted

    def _draw(
        self, control: RecedingHorizon, task: str, episode: Episode
    ) -> tuple[Image.Image | None, str | None]:
        """A strip of the episode, acted once more under a camera; or why there is none."""
        camera, arena = Camera(), Arena(task, TEST_SEED, render_mode="rgb_array")
        try:
            if not camera.can_see(arena, episode.goal):
                return None, camera.problem
            arena.run(
                control,
                [episode.goal],
                seeds=[episode.seed],
                max_steps=self.config.max_steps,
                on_frame=lambda _, environment, __: camera.see(environment),
            )
        finally:
            arena.close()
        return strip(camera.frames, self.config.frames), None

    def _arguments(self, pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(pipeline, DiffusionPolicyPipeline):
            raise UnsupportedPipelineError(
                f"{type(pipeline).__name__} plans no actions; give a DiffusionPolicyPipeline, or "
                "choose a sampler for pictures or texts."
            )
        if pipeline.obs_dim != OBSERVATION_DIM:
            raise UnsupportedPipelineError(
                f"This policy observes {pipeline.obs_dim} numbers, the robot here tells "
                f"{OBSERVATION_DIM}; give one that was trained like metaworld-policy."
            )
        known = inspect.signature(type(pipeline).__call__).parameters
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(
                f"`{unknown[0]}` is no argument of {type(pipeline).__name__}; leave it out."
            )
        most = int(pipeline.scheduler.config.num_train_timesteps)
        arguments = {"num_inference_steps": min(100, most), **call_defaults(pipeline), **given}
        if (steps := arguments["num_inference_steps"]) > most:
            raise ConfigError(f"`num_inference_steps` is {steps}; this policy has {most} at most.")
        return arguments


def _tasks(prompts: str | Sequence[str]) -> list[str]:
    tasks = [prompts] if isinstance(prompts, str) else list(prompts)
    return [check_task(task) for task in tasks]


def _reused(pipeline: Any) -> int:
    """Evaluations that a cache on the pipeline has answered so far."""
    cache = cache_of(pipeline)
    return 0 if cache is None else cache.report().reused


def _numbered_from(start: int, on_frame: OnFrame) -> OnFrame:
    """`on_frame` for episodes that are counted from `start` on."""
    return lambda number, *shown: on_frame(start + number, *shown)
