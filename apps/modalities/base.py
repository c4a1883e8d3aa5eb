"""What a kind of samples answers for: everything in a run that depends on it.

A sampler names its kind; commands and page look the name up in `MODALITIES`, once, and ask the
object that they find.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from apps.jobs.options import GenerateOptions
from apps.modalities.call import ResolvedCall, resolve
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import JsonObject, Pipeline
from gensift.runs import RunFiles

SampleT = TypeVar("SampleT")

OnStep = Callable[[Any], None]
"""Shown what forms after each step; of what class depends on the modality."""

_LIMITED_OPTIONS = {
    "stream": "`--stream` shows texts, but {sampler} makes samples of another kind ({modality}); "
    "leave it out.",
    "task": "`--task` is for robots, but {sampler} makes samples of another kind ({modality}); "
    "give --prompt, or --sampler policy.",
}
"""Options that only some kinds take, and what is said where they are given to another."""


@dataclass(frozen=True)
class Tab:
    """The view of the page that shows samples of a kind.

    Attributes:
        title: of the tab.
        build: lazy `"module:function"`; the function builds the tab in a Gradio block and takes the
            `AppContext`.
        place: tabs stand in this order.
    """

    title: str
    build: str
    place: int = 100


class Modality(ABC, Generic[SampleT]):
    """A kind of samples: how they are scored, written, reported and shown.

    Attributes:
        name: registered name.
        deed, denial: what a model or sampler of this kind does, and what another does not, such as
            "writes texts" and "writes no texts".
        samplers: the option that chooses a sampler of this kind, for messages.
        takes: those of the options `stream` and `task` that go with this kind.
        has_tree: whether a picture of the sifting tree is drawn for each prompt.
        lists_all_samples: whether the JSON document of a run lists all samples, or winners alone.
        tab: view of the page; None without one.
    """

    name: ClassVar[str]
    deed: ClassVar[str]
    denial: ClassVar[str]
    samplers: ClassVar[str] = "a sampler of its own kind (--list-samplers)"
    takes: ClassVar[frozenset[str]] = frozenset()
    has_tree: ClassVar[bool] = False
    lists_all_samples: ClassVar[bool] = True
    tab: ClassVar[Tab | None] = None

    def default_rewards(self, model: str) -> tuple[str, ...]:
        """Names of the rewards that fit a model when none is named; samples may go without."""
        return ()

    def check_options(self, options: GenerateOptions) -> None:
        """Refuse options that mean nothing for this kind.

        Raises:
            ConfigError: naming the first one.
        """
        for option, message in _LIMITED_OPTIONS.items():
            if getattr(options, option) and option not in self.takes:
                raise ConfigError(message.format(sampler=options.sampler, modality=self.name))

    def check_model(self, model: str) -> None:
        """Refuse, without loading anything, a model that is not there and cannot be fetched.

        A modality that loads pipelines its own way says here what it can load.

        Raises:
            GensiftError: there is no such model.
        """
        from gensift.pipelines.loading import check_model

        check_model(model)

    def load_pipeline(self, model: str, **settings: Any) -> Pipeline:
        """Load what draws; `settings` are those of `gensift.load_pipeline`.

        Raises:
            GensiftError: there is no such model, or it does not go with the settings.
        """
        from gensift.pipelines.loading import load_pipeline

        pipeline: Pipeline = load_pipeline(model, **settings)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def claims(self, pipeline: Pipeline) -> bool:
        """Whether a pipeline is known to make samples of this kind and no other."""
        return False

    def refusal(self, model: str, asked: str) -> str:
        """What is said when a model of this kind is to make samples of the kind `asked`."""
        return (
            f"{model} {self.deed}, and this makes samples of another kind ({asked}); take "
            f"{self.samplers}, or another model."
        )

    def check_sampler(self, sampler: str, modality: str) -> None:
        """Refuse a sampler of another kind.

        Raises:
            UnsupportedPipelineError: `modality`, its kind, is not this one.
        """
        if modality != self.name:
            raise UnsupportedPipelineError(f"{sampler} {self.denial}; choose it on its own tab.")

    def resolve_call(self, options: GenerateOptions, pipeline: Pipeline) -> ResolvedCall:
        """What a run asks of the pipeline's own call.

        Raises:
            ConfigError: an argument is unknown, given twice, or means nothing to this pipeline.
            UnsupportedPipelineError: the pipeline makes what cannot be written here.
        """
        return resolve(options, pipeline, "guidance_scale")

    def show_forming(self, prompt: str) -> AbstractContextManager[OnStep]:
        """Show the samples of a prompt on stderr while the block runs; yields what takes each step.

        Called only where `takes` has "stream".
        """
        raise NotImplementedError

    @abstractmethod
    def write_sample(
        self, files: RunFiles, sample: SampleT, stem: str, about: Mapping[str, str]
    ) -> JsonObject:
        """Write one sample; returns its own part of the results line.

        Args:
            files: of the run.
            sample: as the sampler returned it; None where another process writes it.
            stem: name for a file, without its ending; no other sample has it.
            about: texts that a file may carry along: prompt, seed, sampler, config and reward.

        Returns:
            What `results.jsonl` holds of it besides seed and rewards; the name of a file under
            "file", which a later run looks for.
        """

    def read_sample(self, files: RunFiles, line: JsonObject) -> SampleT:
        """The sample of a results line, which another process has written.

        Called only for samplers whose candidates several processes share.
        """
        raise NotImplementedError

    def in_words(self, line: JsonObject) -> str:
        """What a page of runs says of a sample, by its part of the results line.

        A picture among its files is shown beside it; the name of any other file is said.
        """
        file = str(line.get("file", ""))
        return "" if file.endswith(".png") else file

    @abstractmethod
    def show(self, lines: Sequence[JsonObject], *, is_reproducible: bool) -> None:
        """Print the samples of a run.

        Args:
            lines: one results line per prompt.
            is_reproducible: whether a seed in a plain pipeline call gives a sample again.
        """
