"""Actions as a modality: episodes of a robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apps.jobs.options import GenerateOptions
from apps.modalities.action.report import show_episodes, write_episode
from apps.modalities.base import Modality, Tab
from apps.modalities.call import ResolvedCall, resolve
from gensift.protocols import JsonObject, Pipeline
from gensift.runs import RunFiles
from samplers.policy.episode import ActedEpisode


class Action(Modality[ActedEpisode]):
    """Episodes; their own success scores them, so they go without rewards."""

    name = "action"
    deed = "plans actions of a robot"
    denial = "plans no actions"
    samplers = "--sampler policy"
    takes = frozenset({"task"})
    tab = Tab("Policy", "apps.web.tabs.policy:build", place=2)

    def claims(self, pipeline: Pipeline) -> bool:
        """Diffusion policies."""
        from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline

        return isinstance(pipeline, DiffusionPolicyPipeline)

    def resolve_call(self, options: GenerateOptions, pipeline: Pipeline) -> ResolvedCall:
        """See `Modality.resolve_call`."""
        from samplers.diffusion.guidance import guidance_argument

        return resolve(options, pipeline, guidance_argument(pipeline))

    def write_sample(
        self, files: RunFiles, sample: ActedEpisode, stem: str, about: Mapping[str, str]
    ) -> JsonObject:
        """Write the strip of pictures of an episode that has one."""
        return write_episode(files, sample, f"{stem}.png", about)

    def in_words(self, line: JsonObject) -> str:
        """What came of the episode."""
        outcome = "reached" if line["success"] else "not reached"
        return f"goal {line['goal']}: {outcome}, {line['steps']} actions"

    def show(self, lines: Sequence[JsonObject], *, is_reproducible: bool) -> None:
        """Print success and speed per task."""
        show_episodes(lines)


ACTION = Action()
