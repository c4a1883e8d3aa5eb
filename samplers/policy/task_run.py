"""All episodes of one Meta-World task: acting, counting what it cost, drawing the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from PIL import Image

from caches.cache import cache_of
from gensift.cost import Cost, Stopwatch
from gensift.pipelines.policy.control import RecedingHorizon
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.protocols import CallArguments
from gensift.zoo.metaworld.rollouts import Arena, Episode, OnFrame, Rollouts
from gensift.zoo.metaworld.tasks import TEST_SEED
from samplers.output import Progress, PromptResult
from samplers.policy.config import PolicyConfig
from samplers.policy.episode import ActedEpisode
from samplers.policy.frames import Camera, Environment, Frame, strip

SUCCESS = "success"
"""Name of the only reward: 1 where Meta-World's own flag went up, else 0."""

OnEpisodeFrame = Callable[[Frame], None]


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """A policy at work on one task.

    Attributes:
        pipeline: the policy.
        arguments: of its call.
        config: how many episodes, and how long.
        task: Meta-World's name of it.
        seeds: one per episode.
        progress: called with finished episodes ("denoise").
        on_frame: shown each episode before its first action and after each.
    """

    pipeline: DiffusionPolicyPipeline
    arguments: CallArguments
    config: PolicyConfig
    task: str
    seeds: Sequence[int]
    progress: Progress | None
    on_frame: OnEpisodeFrame | None

    def run(self) -> tuple[PromptResult, Cost]:
        """Act all episodes; what came of them, and what they cost."""
        control, stopwatch = RecedingHorizon(self.pipeline, **self.arguments), Stopwatch()
        before = _reused(self.pipeline)
        with stopwatch.part("simulate"):
            parts = self._act(control)
        reused = _reused(self.pipeline) - before
        episodes = [episode for part in parts for episode in part.episodes]
        with stopwatch.part("draw"):  # acts once more, which is not counted
            acted = self._reported(control, episodes)
        return self._result(episodes, acted), self._cost(parts, reused, stopwatch.seconds)

    def _act(self, control: RecedingHorizon) -> list[Rollouts]:
        """Episodes of the first held-out goals, as many at once as are allowed."""
        arena, found = Arena(self.task, TEST_SEED), []
        count = len(self.seeds)
        size = self.config.max_rows or count
        try:
            for start in range(0, count, size):
                goals = range(start, min(start + size, count))
                part = arena.run(
                    control,
                    goals,
                    seeds=self.seeds[start : start + size],
                    max_steps=self.config.max_steps,
                    on_frame=self._listener(start),
                )
                found.append(part)
                if self.progress is not None:
                    self.progress("denoise", goals.stop, count)
        finally:
            arena.close()
        return found

    def _listener(self, start: int) -> OnFrame:
        """What takes the frames of episodes that are counted from `start` on."""
        on_frame = self.on_frame
        if on_frame is None:
            return lambda number, environment, observation: None
        return lambda number, environment, observation: on_frame(
            Frame(
                task=self.task,
                number=start + number,
                environment=cast(Environment, environment),
                observation=observation,
            )
        )

    def _reported(
        self, control: RecedingHorizon, episodes: Sequence[Episode]
    ) -> list[ActedEpisode]:
        """Best first: successes, the quicker the better; the first one with pictures."""
        ranked = sorted(episodes, key=lambda one: (not one.is_success, one.steps))
        acted = [
            ActedEpisode(goal=one.goal, seed=one.seed, is_success=one.is_success, steps=one.steps)
            for one in ranked[: self.config.reported]
        ]
        if self.config.frames:
            picture, problem = self._draw(control, ranked[0])
            acted[0] = replace(acted[0], strip=picture, no_strip=problem)
        return acted

    def _draw(
        self, control: RecedingHorizon, episode: Episode
    ) -> tuple[Image.Image | None, str | None]:
        """A strip of the episode, acted once more under a camera; or why there is none."""
        camera, arena = Camera(), Arena(self.task, TEST_SEED, render_mode="rgb_array")
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
        return strip(camera.pictures, self.config.frames), None

    def _result(self, episodes: Sequence[Episode], acted: Sequence[ActedEpisode]) -> PromptResult:
        scores = [float(episode.is_success) for episode in acted]
        return PromptResult(
            prompt=self.task,
            samples=acted,
            rewards=tuple(scores),
            all_rewards=tuple({SUCCESS: score} for score in scores),
            seeds=tuple(episode.seed for episode in acted),
            first_reward=float(episodes[0].is_success),
            mean_reward=sum(episode.is_success for episode in episodes) / len(episodes),
        )

    def _cost(self, parts: Sequence[Rollouts], reused: int, seconds: Mapping[str, float]) -> Cost:
        steps = int(self.arguments["num_inference_steps"])
        planning = sum(sum(part.plan_seconds) for part in parts)
        return Cost(
            nfe=steps * sum(sum(part.plan_rows) for part in parts),
            denoiser_calls=steps * sum(len(part.plan_rows) for part in parts),
            reward_calls={SUCCESS: len(self.seeds)},
            cache_hits=reused,
            seconds={
                "plan": planning,
                "simulate": seconds["simulate"] - planning,
                "draw": seconds["draw"],
            },
        )


def _reused(pipeline: DiffusionPolicyPipeline) -> int:
    """Evaluations that a cache on the pipeline has answered so far."""
    cache = cache_of(pipeline)
    return 0 if cache is None else cache.report().reused
