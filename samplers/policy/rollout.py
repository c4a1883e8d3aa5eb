"""Letting a policy act in simulation, and telling how often it gets there and how fast it plans.

This is an evaluation, not a search: nothing is chosen among, and more episodes make the figures
surer, not the actions better.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gensift.cost import Cost
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.protocols import CallArguments, Pipeline
from gensift.trace import PromptTrace, Trace
from gensift.zoo.metaworld.rollouts import OnFrame
from gensift.zoo.metaworld.tasks import OBSERVATION_DIM, check_task
from samplers.base import Plan, Request, SamplerBase
from samplers.output import PlannedStage, SamplerOutput
from samplers.policy.config import PolicyConfig
from samplers.policy.task_run import SUCCESS, TaskRun
from samplers.scoring import RewardSpec


@dataclass(frozen=True, kw_only=True)
class RolloutPlan(Plan):
    """What a call is going to do at most: prompts are tasks, and candidates are episodes.

    The cost is that of episodes that all go on to their last step; successes make it less.
    """


class PolicyRollout(SamplerBase[PolicyConfig, RolloutPlan]):
    """Evaluates a robot's policy by rollouts, one per held-out goal; it searches nothing.

    Prompts are names of Meta-World tasks, samples are episodes (`ActedEpisode`), the quickest
    success first. The share of successes is each task's `mean_reward`.
    """

    name: ClassVar[str] = "policy"
    modality: ClassVar[str] = "action"
    pipelines: ClassVar[str] = "diffusion policies for Meta-World"
    config_class: ClassVar[type[PolicyConfig]] = PolicyConfig
    default_model: ClassVar[str] = "metaworld-policy"
    is_reproducible: ClassVar[bool] = False

    def __init__(
        self, reward: RewardSpec = None, config: PolicyConfig | None = None, **options: Any
    ) -> None:
        """As of every sampler, but without a reward.

        Raises:
            ConfigError: an option is unknown or out of range, or a reward is given.
        """
        super().__init__(None, config, **options)
        if reward:
            raise ConfigError(
                "A reward was given, but episodes are scored by the success of their task; leave "
                "it out."
            )

    @property
    def num_outputs(self) -> int:
        """Episodes reported per task."""
        return self.config.reported

    def __call__(
        self,
        pipeline: Pipeline,
        prompts: str | Sequence[str],
        *,
        on_frame: OnFrame | None = None,
        **arguments: Any,
    ) -> SamplerOutput:
        """Act on tasks; arguments as of every sampler.

        `on_step` is shown a `Frame` of each episode before its first action and after each;
        `on_frame` is its old form, called with number, environment and observation.

        Raises:
            UnknownNameError: there is no such task.
            UnsupportedPipelineError: the pipeline is no policy.
            MissingExtraError: Meta-World is not installed.
            ConfigError: an argument is out of range.
        """
        if on_frame is not None:
            warnings.warn(
                "`on_frame` is now `on_step`, which is called with one Frame; rename it.",
                DeprecationWarning,
                stacklevel=2,
            )
            shown = on_frame
            arguments["on_step"] = lambda frame: shown(
                frame.number, frame.environment, frame.observation
            )
        return super().__call__(pipeline, prompts, **arguments)

    def plan_request(self, request: Request) -> RolloutPlan:
        """At most so many evaluations of the policy."""
        count, episodes = request.num_prompts, self.config.num_candidates
        steps = int(request.arguments["num_inference_steps"])
        chunks = -(-self.config.max_steps // request.pipeline.n_action_steps)
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

    def draw(self, request: Request) -> SamplerOutput:
        """Act on one task after the other."""
        pipeline = _policy(request.pipeline)
        groups = request.seed_groups(self.config.num_candidates)
        _check_seeds(groups, self.config.num_candidates)
        results, traces, cost = [], [], Cost()
        for index, (task, seeds) in enumerate(zip(request.prompts, groups, strict=True)):
            run = TaskRun(
                pipeline=pipeline,
                arguments=request.arguments,
                config=self.config,
                task=task,
                seeds=seeds,
                progress=request.progress,
                on_frame=request.on_step,
            )
            result, spent = run.run()
            results.append(result)
            cost += spent
            traces.append(
                PromptTrace(prompt=task, prompt_index=index, seeds=tuple(seeds), stages=())
            )
        return SamplerOutput(results=tuple(results), cost=cost, trace=Trace(prompts=tuple(traces)))

    def check_prompts(self, prompts: str | Sequence[str]) -> tuple[str, ...]:
        """Names of tasks.

        Raises:
            UnknownNameError: there is no such task.
        """
        return tuple(check_task(task) for task in super().check_prompts(prompts))

    def call_arguments(self, pipeline: Pipeline, given: CallArguments) -> dict[str, Any]:
        """Arguments of the policy's call; 100 denoising steps where nobody says otherwise.

        Raises:
            UnsupportedPipelineError: the pipeline is no policy, or sees something else.
            ConfigError: an argument is unknown, or there are too many steps.
        """
        policy = _policy(pipeline)
        known = inspect.signature(type(policy).__call__).parameters
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(
                f"`{unknown[0]}` is no argument of {type(policy).__name__}; leave it out."
            )
        most = int(policy.scheduler.config.num_train_timesteps)
        defaults = {"num_inference_steps": min(100, most)}
        arguments = defaults | dict(super().call_arguments(pipeline, given))
        if (steps := arguments["num_inference_steps"]) > most:
            raise ConfigError(f"`num_inference_steps` is {steps}; this policy has {most} at most.")
        return arguments


def _policy(pipeline: Pipeline) -> DiffusionPolicyPipeline:
    """`pipeline` as a policy for the robot of Meta-World.

    Raises:
        UnsupportedPipelineError: it is none.
    """
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
    return pipeline


def _check_seeds(groups: Sequence[Sequence[int]], count: int) -> None:
    if any(len(group) != count for group in groups):
        raise ConfigError(
            f"Seeds were given for {[len(group) for group in groups]} episodes; give {count} for "
            "each task."
        )
