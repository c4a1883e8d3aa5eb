"""A run that is settled but not begun, and the folder that it goes to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.jobs.prompt_files import PromptRow
from gensift.config import config_hash
from gensift.errors import RunFolderError
from gensift.protocols import CallArguments, JsonObject, Pipeline

if TYPE_CHECKING:
    from apps.jobs.sampler_classes import AnySampler, SamplerClass
    from apps.modalities.registry import AnyModality
    from rewards.protocol import Reward
    from samplers.base import Plan

OUTPUTS = Path("outputs")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `generate` run, settled but not begun.

    Attributes:
        sampler_class: what searches.
        modality: the kind of its samples.
        sampler_options: its config as a mapping.
        rewards: what scores samples, by name.
        pipeline: what draws.
        prompts: all of them, also those that an earlier run has finished.
        seed: number that all randomness derives from.
        call: keyword arguments of the pipeline call that differ from the model's own.
        pipeline_call: with a seed, what reproduces a sample in a plain pipeline call; None for
            samplers whose samples no plain call reproduces.
        config: all that decides the results but the prompts; a folder holds one such config.
        folder: where results go.
        command: the command line.
        is_streamed: whether samples are shown while they form.
        rows: the prompts with what is set for each alone; empty where nothing is.
    """

    sampler_class: SamplerClass
    modality: AnyModality
    sampler_options: JsonObject
    rewards: Mapping[str, Reward]
    pipeline: Pipeline
    prompts: Sequence[str]
    seed: int
    call: CallArguments
    pipeline_call: CallArguments | None
    config: JsonObject
    folder: Path
    command: str
    is_streamed: bool = False
    rows: Sequence[PromptRow] = ()

    def row(self, index: int) -> PromptRow:
        """Prompt `index`, with what is set for it alone."""
        return self.rows[index] if self.rows else PromptRow(self.prompts[index])

    def make_sampler(self, **changes: Any) -> AnySampler:
        """The sampler, with `changes` to its options."""
        options = {**self.sampler_options, **changes}
        return self.sampler_class(reward=self.rewards or None, keep_previews=True, **options)

    def sampler_of(self, num_candidates: int, **changes: Any) -> AnySampler:
        """The sampler, its number of candidates settled."""
        fixed = {"num_candidates": num_candidates, "budget": None}
        known = {name: value for name, value in fixed.items() if name in self.sampler_options}
        return self.make_sampler(**known, **changes)

    def plan_of(self, sampler: AnySampler) -> Plan:
        """What a sampler would do for one prompt."""
        return sampler.plan(self.pipeline, self.prompts[0], **self.call)

    def trace_name(self, index: int) -> str:
        """Name of the files that hold the trace of a prompt, without their ending."""
        return "trace" if len(self.prompts) == 1 else f"trace-{index:04d}"


def check_output(path: str | None) -> None:
    """Refuse a run folder that cannot be made, before anything heavy is loaded.

    Raises:
        RunFolderError: if a file is in the way or the folder is not writable.
    """
    folder = Path(path) if path is not None else OUTPUTS
    existing = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        reason = f"{str(existing)!r} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{str(existing)!r} is not writable"
    else:
        return
    raise RunFolderError(
        f"Output folder {str(folder)!r} cannot be made: {reason}; choose another with --output."
    )


def default_folder(
    config: JsonObject, prompts: Sequence[str], rows: Sequence[PromptRow] = ()
) -> Path:
    """A folder for this very command, so that no other command writes into it."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompts[0].lower())[:40].strip("-") or "prompt"
    own = {str(index): row.own for index, row in enumerate(rows) if row.own}
    told = {"config": config, "prompts": list(prompts), **({"own": own} if own else {})}
    digits = config_hash(told)[:8]
    return OUTPUTS / f"{config['sampler']}-{slug}-{digits}"
