"""A pipeline call about to be made: its arguments by name, its prompts, its candidates' noise."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from gensift.denoising.bound import BoundPipeline
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import AnyFunction, Arguments, CallArguments, Pipeline
from gensift.randomness import candidate_seeds, make_generators
from samplers.exchange import Exchange

COUNT_ARGUMENTS = ("num_images_per_prompt", "num_videos_per_prompt")


@dataclass(frozen=True, kw_only=True)
class PipelineCall:
    """A pipeline call about to be made.

    Attributes:
        bound: the pipeline, resolved.
        function: what is called with the pipeline and `arguments`.
        arguments: by name, defaults filled in.
        prompts: what rewards score against, one per group of candidates.
        seeds: per prompt the seed of each candidate; none before candidates are fixed.
    """

    bound: BoundPipeline
    function: AnyFunction
    arguments: Arguments
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def bind(
        cls,
        pipe: Pipeline,
        function: AnyFunction,
        args: tuple[object, ...],
        kwargs: CallArguments,
        scored_prompts: Sequence[str] | None = None,
        *,
        nonuniform: Collection[str] = (),
    ) -> PipelineCall:
        """Read the arguments of a call.

        Args:
            pipe: a diffusers pipeline.
            function: its `__call__`, as its class has it.
            args: given by position.
            kwargs: given by name.
            scored_prompts: what stands in for a prompt that is given as embeddings.
            nonuniform: arguments by which steps differ, and that are taken nevertheless.

        Raises:
            ConfigError: an argument is unknown, there is no prompt, or ready latents are given.
            UnsupportedPipelineError: the pipeline does not denoise.
        """
        if getattr(pipe, "scheduler", None) is None:
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__} has no scheduler, so it does not denoise; choose a sampler "
                "for models that draw scale by scale, such as tts-var or var-best-of-n."
            )
        try:
            given = inspect.signature(function).bind(pipe, *args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"{type(pipe).__name__} cannot be called so: {error}.") from error
        given.apply_defaults()
        arguments = dict(list(given.arguments.items())[1:])
        arguments |= arguments.pop(_name_of_rest(function), {})
        prompt = arguments.get("prompt") or scored_prompts
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
        if not prompts:
            raise ConfigError(
                f"{type(pipe).__name__} was called without `prompt`; rewards judge against the "
                "prompt, so give it as text, or as `attach(..., prompts=[...])` with embeddings."
            )
        _refuse_nonuniform_loop(pipe, arguments, nonuniform)
        for name in ("negative_prompt", "negative_prompt_2", "negative_prompt_3"):
            arguments |= _for_each_prompt(name, arguments.get(name), prompt, len(prompts))
        if arguments.get("latents") is not None:
            raise ConfigError(
                "`latents` was given; a search draws each candidate's latents from its own seed. "
                "Give `generator` instead."
            )
        bound = BoundPipeline.of(pipe)
        return cls(bound=bound, function=function, arguments=arguments, prompts=prompts)

    @property
    def pipe(self) -> Pipeline:
        """The pipeline that is called."""
        return self.bound.pipe

    @property
    def count_argument(self) -> str:
        """Name of the argument that says how many samples to draw per prompt."""
        for name in COUNT_ARGUMENTS:
            if name in self.arguments:
                return name
        raise UnsupportedPipelineError(
            f"{self.bound.class_name} draws one sample per prompt (it takes none of "
            f"{', '.join(COUNT_ARGUMENTS)}); use a pipeline that draws several."
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels: as given, or the pipeline's own default."""
        scale_factor = int(getattr(self.pipe, "vae_scale_factor", 8))
        default = getattr(self.pipe, "default_sample_size", 0) * scale_factor
        height, width = (self.arguments.get(name) or default for name in ("height", "width"))
        if not all(isinstance(side, int) for side in (height, width)):
            raise ConfigError(f"height {height!r} and width {width!r} must be whole pixels.")
        return height, width

    @cached_property
    def num_steps(self) -> int:
        """Denoiser calls per candidate and guidance row: the length of the scheduler's loop."""
        if hasattr(self.pipe, "count_steps"):
            # A pipeline of ours whose arguments say more than the scheduler knows.
            return int(self.pipe.count_steps(self.arguments))
        custom = self.arguments.get("timesteps") or self.arguments.get("sigmas")
        if custom is not None:
            return len(custom)
        # A copy: planning must not disturb a scheduler that is in use.
        scheduler = copy.deepcopy(self.bound.scheduler)
        # The amount of dynamic shift moves the timesteps but not their number.
        extra = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(self.arguments["num_inference_steps"], **extra)
        return len(scheduler.timesteps)

    def with_candidates(
        self,
        default_count: Callable[[PipelineCall], int],
        seed: int,
        seeds: Sequence[Sequence[int]] | None,
        exchange: Exchange,
    ) -> PipelineCall:
        """The call with the number of its candidates fixed, and where each draws its noise from.

        Args:
            default_count: candidates per prompt where the call itself asks for one.
            seed: base from which seeds derive.
            seeds: per prompt the seed of each candidate, instead.
            exchange: the processes that share them; the first one's count holds for all.
        """
        if self.arguments.get("prompt") is None:
            _refuse_to_share(exchange)
            return self._with_embedded_candidates()
        count = self.arguments[self.count_argument] or 1
        if count <= 1:
            # Measured, it may differ between processes.
            count = exchange.gather(default_count(self) if exchange.rank == 0 else 0)[0]
        rows = count * len(self.prompts)
        generator = self.arguments.get("generator")
        generators: list[torch.Generator] = (
            generator if isinstance(generator, list) else [] if generator is None else [generator]
        )
        if len(generators) == rows:
            return self.drawing_from(generators, count)
        if len(generators) > 1:
            raise ConfigError(
                f"`generator` has {len(generators)} entries for {rows} candidates; give one per "
                "candidate, a single one, or none."
            )
        base = generators[0].initial_seed() if generators else seed
        groups = seeds or [candidate_seeds(base, i, count) for i in range(len(self.prompts))]
        _check_seeds(groups, len(self.prompts), count)
        return self.drawing_from(make_generators([s for group in groups for s in group]), count)

    def _with_embedded_candidates(self) -> PipelineCall:
        """Ready embeddings are repeated by some pipelines and not by others, so rows are given."""
        generators = self.arguments.get("generator")
        given = len(generators) if isinstance(generators, list) else 0
        if given == 0 or given % len(self.prompts):
            raise ConfigError(
                f"With `prompt_embeds` give `generator` as a list of one per candidate, a multiple "
                f"of the {len(self.prompts)} prompt(s); got {given}."
            )
        return self.drawing_from(generators or [], given // len(self.prompts))

    def drawing_from(self, generators: list[torch.Generator], count: int) -> PipelineCall:
        """The call with `count` candidates per prompt, one generator for each.

        Raises:
            ConfigError: a generator was drawn from before.
        """
        if any(_was_used(generator) for generator in generators):
            raise ConfigError(
                "A generator was drawn from before, so its seed would not reproduce the sample; "
                "make a fresh one: torch.Generator().manual_seed(seed)."
            )
        seeds = [generator.initial_seed() for generator in generators]
        groups = tuple(tuple(seeds[i : i + count]) for i in range(0, len(seeds), count))
        arguments = self.arguments | {"generator": generators}
        if arguments.get("prompt") is not None:
            arguments[self.count_argument] = count
        return replace(self, arguments=arguments, seeds=groups)

    def drawing_only(self, candidates: Sequence[int]) -> PipelineCall:
        """The call that draws just these of the candidates of each prompt; `seeds` name all."""
        count = len(self.seeds[0])
        if len(candidates) == count:
            return self
        generators = self.arguments["generator"]
        starts = range(0, len(generators), count)
        own = [generators[start + candidate] for start in starts for candidate in candidates]
        arguments = {**self.arguments, "generator": own, self.count_argument: len(candidates)}
        return replace(self, arguments=arguments)

    def run(self) -> Any:
        """Make the call; returns what the pipeline returns."""
        return self.function(self.pipe, **self.arguments)


def _for_each_prompt(
    name: str, negative: object, prompt: object, num_prompts: int
) -> dict[str, object]:
    """Negative prompts as a list of one per prompt, where prompts are a list."""
    if isinstance(negative, list | tuple) and len(negative) != num_prompts:
        raise ConfigError(
            f"`{name}` has {len(negative)} texts for {num_prompts} prompt(s); give one for all, "
            "or one for each."
        )
    # Some pipelines read a single text as one row, however many prompts there are.
    if isinstance(prompt, list) and isinstance(negative, str):
        return {name: [negative] * num_prompts}
    return {}


def _refuse_to_share(exchange: Exchange) -> None:
    if exchange.size > 1:
        raise ConfigError(
            "A call with `prompt_embeds` has its rows laid out already and cannot share them with "
            "other processes; give the prompt as text, or a sampler without `exchange`."
        )


def _was_used(generator: torch.Generator) -> bool:
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return not torch.equal(generator.get_state(), fresh.get_state())


def _name_of_rest(function: AnyFunction) -> str:
    """The name of a function's `**kwargs`, or an empty text."""
    parameters = inspect.signature(function).parameters.values()
    return next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")


# Arguments that shorten the loop or change its rows along the way, and their neutral values.
_NONUNIFORM = {
    "strength": (None, 1.0),
    "denoising_start": (None,),
    "denoising_end": (None, 1.0),
    "cfg_truncation": (None, 1.0),
    "skip_guidance_layers": (None,),
    "guidance_interval": (None,),
    "solver": (None, "euler"),
}


def _refuse_nonuniform_loop(
    pipe: Pipeline, arguments: CallArguments, taken: Collection[str]
) -> None:
    """Checkpoints and costs are planned for whole loops whose steps are alike."""
    for name, neutral in _NONUNIFORM.items():
        if name not in taken and arguments.get(name) not in neutral:
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__} was called with {name}={arguments[name]}, by which steps "
                "are left out or differ; searches plan whole loops of equal steps. Leave it out."
            )


def _check_seeds(seeds: Sequence[Sequence[int]], prompts: int, count: int) -> None:
    if len(seeds) != prompts or any(len(group) != count for group in seeds):
        sizes = [len(group) for group in seeds]
        raise ConfigError(
            f"`seeds` has groups of {sizes}; give {prompts} group(s) of {count} seeds, one per "
            "candidate."
        )
