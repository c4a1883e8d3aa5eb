"""Searching inside pipeline calls that are not ours.

with gensift.attach(sampler, pipe) as run:
    image = pipe("a red circle", num_images_per_prompt=16).images[0]
run.output.seeds[0], run.output.rewards[0], run.output.cost, run.output.trace
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gensift.cost import Cost
from gensift.denoising.modules import execution_device_of
from gensift.denoising.observer import observe_scheduler
from gensift.errors import ConfigError, GensiftError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds, make_generators
from samplers.diffusion.cached import cache_hits, follow_copies
from samplers.diffusion.callback import num_steps_of
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.preview import Previewer
from samplers.diffusion.row_gate import LiveRows, RowGate
from samplers.diffusion.schedule import Checkpoint
from samplers.diffusion.sift import NothingLeft, Sift
from samplers.diffusion.stochastic import refuse_shared_noise
from samplers.exchange import Exchange, own_candidates
from samplers.output import PlannedStage, Progress, SamplerOutput
from samplers.scoring import Scorer

if TYPE_CHECKING:
    from samplers.diffusion.search import DiffusionSearch

# Pictures decoded at a time for a scoring: four of 1024 x 1024 pixels, many small ones.
_DECODE_PIXELS = 2**22
COUNT_ARGUMENTS = ("num_images_per_prompt", "num_videos_per_prompt")


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
    sampler: DiffusionSearch,
    pipe: Any,
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
    samples that this process drew, or None if there are none.

    Args:
        sampler: a diffusion search such as `TTSnap`.
        pipe: a diffusers pipeline; on exit it is as before, whatever happened.
        prompts: what to judge against, for calls that give `prompt_embeds` instead of a prompt.
        seed: base of the candidates' seeds.
        seeds: per prompt the seed of each candidate.
        progress: see `samplers.output.Progress`.

    Raises:
        ConfigError: the sampler is no diffusion search.
    """
    if not hasattr(sampler, "plan_call"):
        raise ConfigError(
            f"{type(sampler).__name__} is no diffusion search, so it cannot be attached; call it "
            "as sampler(pipe, prompts)."
        )
    run = AttachedRun()
    plain_class = type(pipe)

    class Sifted(plain_class):  # type: ignore[misc,valid-type]
        """The pipeline's class with a searching `__call__`; calls look it up on the class."""

        @functools.wraps(plain_class.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            call = PipelineCall.bind(
                self,
                plain_class.__call__,
                args,
                kwargs,
                prompts,
                nonuniform=sampler.nonuniform_arguments,
            )
            call = replace(call, arguments=call.arguments | sampler.config.call_arguments())
            call = call.with_candidates(sampler, seed, seeds)
            output, found = sampler.search(call, progress)
            run.record(found)
            return output

    Sifted.__name__, Sifted.__qualname__ = plain_class.__name__, plain_class.__qualname__
    Sifted.__module__ = plain_class.__module__
    pipe.__class__ = Sifted
    try:
        yield run
    finally:
        pipe.__class__ = plain_class


@dataclass(frozen=True, kw_only=True)
class PipelineCall:
    """A pipeline call about to be made, arguments by name and defaults filled in."""

    pipe: Any
    function: Callable[..., Any]
    arguments: dict[str, Any]
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def bind(
        cls,
        pipe: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        judged_prompts: Sequence[str] | None = None,
        *,
        nonuniform: Collection[str] = (),
    ) -> PipelineCall:
        """Read the arguments of a call; `judged_prompts` stand in for a prompt given as embeddings.

        Of the arguments by which steps differ, those in `uneven` are taken.

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
            bound = inspect.signature(function).bind(pipe, *args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"{type(pipe).__name__} cannot be called so: {error}.") from error
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        arguments |= arguments.pop(_name_of_rest(function), {})
        prompt = arguments.get("prompt") or judged_prompts
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
        if not prompts:
            raise ConfigError(
                f"{type(pipe).__name__} was called without `prompt`; rewards judge against the "
                "prompt, so give it as text, or as `attach(..., prompts=[...])` with embeddings."
            )
        _refuse_nonuniform_loop(pipe, arguments, nonuniform)
        for name in ("negative_prompt", "negative_prompt_2", "negative_prompt_3"):
            # Some pipelines read a single text as one row, however many prompts there are.
            if isinstance(prompt, list) and isinstance(arguments.get(name), str):
                arguments[name] = [arguments[name]] * len(prompts)
        if arguments.get("latents") is not None:
            raise ConfigError(
                "`latents` was given; a search draws each candidate's latents from its own seed. "
                "Give `generator` instead."
            )
        return cls(pipe=pipe, function=function, arguments=arguments, prompts=prompts)

    @property
    def count_argument(self) -> str:
        """Name of the argument that says how many samples to draw per prompt."""
        for name in COUNT_ARGUMENTS:
            if name in self.arguments:
                return name
        raise UnsupportedPipelineError(
            f"{type(self.pipe).__name__} draws one sample per prompt (it takes none of "
            f"{', '.join(COUNT_ARGUMENTS)}); use a pipeline that draws several."
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels: as given, or the pipeline's own default."""
        default = getattr(self.pipe, "default_sample_size", 0) * self._scale_factor
        height, width = (self.arguments.get(name) or default for name in ("height", "width"))
        if not all(isinstance(side, int) for side in (height, width)):
            raise ConfigError(f"height {height!r} and width {width!r} must be whole pixels.")
        return height, width

    @property
    def _scale_factor(self) -> int:
        return int(getattr(self.pipe, "vae_scale_factor", 8))

    def with_candidates(
        self, sampler: DiffusionSearch, seed: int, seeds: Sequence[Sequence[int]] | None
    ) -> PipelineCall:
        """Settle how many candidates there are and where each draws its noise from."""
        if self.arguments.get("prompt") is None:
            _refuse_to_share(sampler.exchange)
            return self._with_embedded_candidates()
        asked = self.arguments[self.count_argument] or 1
        count = asked if asked > 1 else self._count_for_all(sampler)
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

    def _count_for_all(self, sampler: DiffusionSearch) -> int:
        """The sampler's number of candidates; a measured one may differ between processes."""
        exchange = sampler.exchange
        count = sampler.num_candidates(self) if exchange.rank == 0 else 0
        return exchange.gather(count)[0]

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
        """Make the call."""
        return self.function(self.pipe, **self.arguments)


def _refuse_to_share(exchange: Exchange) -> None:
    if exchange.size > 1:
        raise ConfigError(
            "A call with `prompt_embeds` has its rows laid out already and cannot share them with "
            "other processes; give the prompt as text, or a sampler without `exchange`."
        )


def _was_used(generator: torch.Generator) -> bool:
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return not torch.equal(generator.get_state(), fresh.get_state())


def _name_of_rest(function: Callable[..., Any]) -> str:
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


def _refuse_nonuniform_loop(pipe: Any, arguments: dict[str, Any], taken: Collection[str]) -> None:
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


def search_in_one_call(
    sampler: DiffusionSearch,
    call: PipelineCall,
    progress: Progress | None,
    incumbents: Sequence[Mapping[str, torch.Tensor]] = (),
) -> tuple[Any, SamplerOutput]:
    """Run one pipeline call under the row gate and the scheduler observer; see `Sift.rivals`."""
    plan = sampler.plan_call(call, len(call.seeds[0]))
    checkpoints = sampler.checkpoints(plan.num_steps)
    sift = make_sift(
        sampler.make_sift, sampler, call, plan.stages, checkpoints, progress, incumbents=incumbents
    )
    return run_sift(sampler, call, sift)


AnySift = TypeVar("AnySift", bound=Sift)


def make_sift(
    kind: Callable[..., AnySift],
    sampler: DiffusionSearch,
    call: PipelineCall,
    stages: Sequence[PlannedStage],
    checkpoints: Sequence[Checkpoint],
    progress: Progress | None,
    **fields: Any,
) -> AnySift:
    """The state of a search in one call of the pipeline; `fields` are further ones of `kind`."""
    refuse_shared_noise(call.pipe, call.arguments)
    height, width = call.size
    own = own_candidates(sampler.exchange, len(call.seeds[0]))
    # A process without candidates makes no pipeline call, which would need a row.
    live = LiveRows(max(1, len(own) * len(call.prompts)))
    return kind(
        prompts=call.prompts,
        seeds=call.seeds,
        checkpoints=checkpoints,
        num_outputs=stages[-1].kept,
        scorer=Scorer(sampler.reward, keep_previews=sampler.keep_previews),
        previewer=Previewer(call.pipe, height, width),
        early_previewer=Previewer(
            call.pipe, height, width, decoder=sampler.preview_decoder(call.pipe)
        ),
        live=live,
        stages=stages,
        max_images=min(
            sampler.config.max_rows or len(live.alive),
            max(1, _DECODE_PIXELS // (height * width or 1)),
        ),
        progress=progress,
        on_stage=sampler.on_stage,
        exchange=sampler.exchange,
        **fields,
    )


def run_sift(sampler: DiffusionSearch, call: PipelineCall, sift: Sift) -> tuple[Any, SamplerOutput]:
    """Make the pipeline call that `sift` watches; returns its output, and what was found."""
    own = own_candidates(sampler.exchange, len(call.seeds[0]))
    gates: list[RowGate] = []
    hits = cache_hits(call.pipe)
    output = None
    try:
        if own:
            output = _run_gated(sampler, call.drawing_only(own), sift, gates)
    except NothingLeft:
        pass
    if output is None:
        sift.join_without_candidates()
    sift.finish()
    if not sift.order:
        steps = sift.stages[-1].num_inference_steps
        raise UnsupportedPipelineError(
            f"{type(call.pipe).__name__} ended before step {steps} of its scheduler, so no "
            "candidate was chosen; neither interrupt the call nor exchange its scheduler."
        )
    device = execution_device_of(call.pipe)
    cost = replace(sift.cost(gates, device), cache_hits=cache_hits(call.pipe) - hits)
    found = SamplerOutput(
        results=sift.results(_samples(output)),
        cost=_together(sampler.exchange.gather(cost)),
        trace=sift.trace(),
    )
    return output, found


def _run_gated(
    sampler: DiffusionSearch, call: PipelineCall, sift: Sift, gates: list[RowGate]
) -> Any:
    """What the pipeline returns; `gates` receives those that count its work."""
    live = sift.live
    with (
        torch.no_grad(),
        gate_denoisers(call.pipe, live, max_rows=sampler.config.max_rows) as attached,
        sampler.solver(call),
        observe_scheduler(
            call.pipe.scheduler,
            sift.on_step,
            num_steps=lambda: num_steps_of(call.pipe),
            live_rows=lambda: live.alive,
            before_step=follow_copies(call.pipe, sift.before_step, live.num_rows),
        ),
    ):
        gates += attached
        try:
            return call.run()
        except (TypeError, ValueError) as error:
            if isinstance(error, GensiftError) or any(gate.calls for gate in gates):
                raise
            raise ConfigError(f"{type(call.pipe).__name__} refused the call: {error}") from error


def _samples(output: Any) -> Any:
    if output is None:
        return ()
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def _together(costs: Sequence[Cost]) -> Cost:
    """Work of all processes, highest peak of memory, and the seconds of the first process."""
    return replace(sum(costs[1:], costs[0]), seconds=costs[0].seconds)
