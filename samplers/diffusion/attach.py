"""Searching inside pipeline calls that are not ours.

with gensift.attach(sampler, pipe) as run:
    image = pipe("a red circle", num_images_per_prompt=16).images[0]
run.output.seeds[0], run.output.rewards[0], run.output.cost, run.output.trace
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gensift.errors import ConfigError
from gensift.protocols import AnyFunction, Arguments, Pipeline, PipelineOutput
from samplers.diffusion.search import DiffusionSearch
from samplers.output import Progress, SamplerOutput


class AttachedRun:
    """What the calls inside an `attach` block did."""

    def __init__(self) -> None:
        self._output: SamplerOutput | None = None

    @property
    def output(self) -> SamplerOutput:
        """Scores, seeds, cost and trace of the last pipeline call.

        Raises:
            ConfigError: the pipeline was not called yet.
        """
        if self._output is None:
            raise ConfigError("No pipeline call was made inside `attach`; call the pipeline first.")
        return self._output

    def record(self, output: SamplerOutput) -> None:
        """Keep the output of a call."""
        self._output = output


@contextmanager
def attach(
    sampler: DiffusionSearch[Any],
    pipe: Pipeline,
    *,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    seeds: Sequence[Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> Iterator[AttachedRun]:
    """Make calls of `pipe` inside the block search with `sampler` and return the sifted samples.

    The number of candidates is the call's `num_images_per_prompt` when that is above 1, else the
    sampler's own. Candidates draw from the call's `generator` when it lists one per candidate;
    otherwise from `seeds`, or from seeds derived from a single generator's seed, or from `seed`.
    A call with ready `prompt_embeds` has one row per candidate and one generator for each.
    Where the sampler shares its candidates with other processes, a call returns those of the sifted
    samples that this process drew, or None if there are none. Blocks may be left in any order; of
    those that are open, calls search with the one that was opened last.

    Args:
        sampler: a diffusion search such as `TTSnap`.
        pipe: a diffusers pipeline; once all blocks are left it is as before, whatever happened.
        prompts: what to judge against, for calls that give `prompt_embeds` instead of a prompt.
        seed: base of the candidates' seeds.
        seeds: per prompt the seed of each candidate.
        progress: see `samplers.output.Progress`.

    Raises:
        ConfigError: the sampler is no diffusion search.
    """
    if not isinstance(sampler, DiffusionSearch):
        raise ConfigError(
            f"{type(sampler).__name__} is no diffusion search, so it cannot be attached; call it "
            "as sampler(pipe, prompts)."
        )
    run = AttachedRun()

    def search(plain: AnyFunction, args: tuple[object, ...], kwargs: Arguments) -> PipelineOutput:
        call = sampler.bind(pipe, plain, args, kwargs, prompts)
        call = call.with_candidates(sampler.num_candidates, seed, seeds, sampler.exchange)
        output, found = sampler.search(call, progress)
        run.record(found)
        return output

    swapped = _SwappedCall.of(pipe)
    swapped.searches.append(search)
    try:
        yield run
    finally:
        swapped.searches.remove(search)
        if not swapped.searches:
            swapped.undo()


class _SwappedCall:
    """A pipeline whose class was replaced by one that searches; calls look `__call__` up there.

    Attributes:
        searches: of the open blocks, the newest last; calls go to that one.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        self._plain = plain = type(pipe)
        self.searches: list[AnyFunction] = []
        searches = self.searches

        @functools.wraps(plain.__call__)
        def __call__(self: Pipeline, *args: object, **kwargs: object) -> PipelineOutput:
            return searches[-1](plain.__call__, args, kwargs)

        names = {"__call__": __call__, "__doc__": plain.__doc__, "_gensift_swapped": self}
        sifted = type(plain.__name__, (plain,), names)
        sifted.__qualname__, sifted.__module__ = plain.__qualname__, plain.__module__
        pipe.__class__ = sifted

    @classmethod
    def of(cls, pipe: Pipeline) -> _SwappedCall:
        """That of a pipeline on which a block is open already, or a new one."""
        found = vars(type(pipe)).get("_gensift_swapped")
        return found if isinstance(found, cls) else cls(pipe)

    def undo(self) -> None:
        """Give the pipeline its class back."""
        self._pipe.__class__ = self._plain
