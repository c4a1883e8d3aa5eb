"""Texts as a modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from apps.modalities.base import Modality, OnStep, Tab
from apps.modalities.text.report import show_answers
from apps.modalities.text.streaming import show_texts
from gensift.protocols import JsonObject, Pipeline
from gensift.runs import RunFiles


class Text(Modality[str]):
    """Texts; they stand in the results themselves, and can be shown while they form."""

    name = "text"
    deed = "writes texts"
    denial = "writes no texts"
    samplers = "--sampler odd or decode"
    takes = frozenset({"stream"})
    tab = Tab("Text", "apps.web.tabs.text:build", place=1)

    def default_rewards(self, model: str) -> tuple[str, ...]:
        """What a zoo model brings; other texts go without."""
        from gensift.zoo.catalog import ZOO

        own = ZOO[model].reward if model in ZOO else None
        return () if own is None else (own,)

    def claims(self, pipeline: Pipeline) -> bool:
        """Masked diffusion language models."""
        from gensift.pipelines.llada.pipeline import LLaDAPipeline

        return isinstance(pipeline, LLaDAPipeline)

    def show_forming(self, prompt: str) -> AbstractContextManager[OnStep]:
        """See `show_texts`."""
        return show_texts(prompt)

    def write_sample(
        self, files: RunFiles, sample: str, stem: str, about: Mapping[str, str]
    ) -> JsonObject:
        """Write no file: the text is part of the results line."""
        return {"text": sample}

    def in_words(self, line: JsonObject) -> str:
        """The text itself."""
        return str(line["text"])

    def show(self, lines: Sequence[JsonObject], *, is_reproducible: bool) -> None:
        """Print all different answers of every prompt."""
        show_answers(lines)


TEXT = Text()
