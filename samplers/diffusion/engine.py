"""Running one gated pipeline call of a search, from what is to be done to what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gensift.cost import Cost, peak_memory_mib
from gensift.denoising.bound import num_steps_of
from gensift.denoising.observer import observe_scheduler
from gensift.errors import ConfigError, GensiftError, UnsupportedPipelineError
from gensift.protocols import PipelineOutput
from samplers.diffusion.cached import cache_hits, follow_copies
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.planning import CallShape, planned_work
from samplers.diffusion.preview import Previewer
from samplers.diffusion.progress import CallProgress, SegmentTimer
from samplers.diffusion.results import results_of
from samplers.diffusion.row_gate import LiveRows, RowGate
from samplers.diffusion.row_numbers import RowNumbers
from samplers.diffusion.schedule import Checkpoint
from samplers.diffusion.search_run import NothingLeft, SearchRun
from samplers.diffusion.stage_scoring import StageScorer
from samplers.diffusion.stochastic import refuse_shared_noise
from samplers.diffusion.strategy import SelectionStrategy
from samplers.diffusion.trace_log import TraceLog
from samplers.exchange import ALONE, Exchange, own_candidates
from samplers.output import OnStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec, Scorer

# Pictures decoded at a time for scoring: four of 1024 x 1024 pixels, many small ones.
_DECODE_PIXELS = 2**22


@dataclass(frozen=True, kw_only=True)
class CallSearch:
    """What is to be done in one pipeline call.

    Attributes:
        shape: how large it is.
        checkpoints: stages before the last one.
        strategies: one per prompt.
        reward: what scores.
        early_decoder: tiny decoder of early estimates, or None for the pipeline's own VAE.
        max_rows: most denoiser rows, and pictures decoded, at a time.
        solver: a block that changes how the scheduler steps.
        keep_previews: whether the trace holds small pictures.
        progress: called with what is done so far.
        on_stage: shown each stage.
        exchange: the processes that share the candidates.
        incumbents: see `SearchRun`.
    """

    shape: CallShape
    checkpoints: Sequence[Checkpoint]
    strategies: Sequence[SelectionStrategy]
    reward: RewardSpec
    early_decoder: torch.nn.Module | None = None
    max_rows: int | None = None
    solver: Callable[[], AbstractContextManager[None]] = nullcontext
    keep_previews: bool = False
    progress: Progress | None = None
    on_stage: OnStage | None = None
    exchange: Exchange = ALONE
    incumbents: Sequence[Mapping[str, Tensor]] = field(default=())


def search_in_one_call(
    call: PipelineCall, search: CallSearch
) -> tuple[PipelineOutput, SamplerOutput]:
    """Make the call under the row gate and the scheduler observer.

    Returns:
        What the pipeline returned, with the samples that were handed on; and what was found. The
        former is None for a process that had no candidate left at the end.

    Raises:
        UnsupportedPipelineError: the pipeline gives its solver no generators, or ended early.
        ConfigError: the pipeline refused the call.
    """
    run = make_run(call, search)
    gates: list[RowGate] = []
    hits, output = cache_hits(call.bound.cache), None
    if run.numbers.own:
        own = call.drawing_only(run.numbers.own)
        try:
            with _watched(own, search, run, gates):
                output = own.function(own.pipe, **own.arguments)
        except NothingLeft:
            pass
        except (TypeError, ValueError) as error:
            if isinstance(error, GensiftError) or any(gate.calls for gate in gates):
                raise
            raise ConfigError(f"{call.bound.class_name} refused the call: {error}") from error
    if output is None:
        run.join_without_candidates()
    run.timer.close("hand over")
    if not run.order:
        raise UnsupportedPipelineError(
            f"{call.bound.class_name} ended before step "
            f"{search.shape.stages[-1].num_inference_steps} of its scheduler, so no "
            "candidate was chosen; neither interrupt the call nor exchange its scheduler."
        )
    cost = _cost(run, gates, call.bound.device, cache_hits(call.bound.cache) - hits)
    found = SamplerOutput(
        results=results_of(
            samples_of(output), run.order, run.numbers, call.prompts, call.seeds, run.log.stages
        ),
        cost=_of_all_processes(search.exchange.gather(cost)),
        trace=run.log.trace(),
    )
    return output, found


def make_run(call: PipelineCall, search: CallSearch) -> SearchRun:
    """The state of a search in one call of the pipeline, nothing done yet."""
    refuse_shared_noise(call.bound, call.arguments)
    height, width = call.size
    own = own_candidates(search.exchange, len(call.seeds[0]))
    numbers = RowNumbers(len(call.prompts), len(call.seeds[0]), own)
    # A process without candidates makes no pipeline call, which would need a row.
    live = LiveRows(max(1, len(own) * len(call.prompts)))
    progress = CallProgress(
        planned_work(search.shape, len(call.prompts)), search.progress, search.exchange.size
    )
    scoring = StageScorer(
        prompts=call.prompts,
        numbers=numbers,
        scorer=Scorer(search.reward, keep_previews=search.keep_previews),
        decoder=Previewer(call.bound, height, width),
        early_decoder=Previewer(call.bound, height, width, decoder=search.early_decoder),
        exchange=search.exchange,
        max_images=min(
            search.max_rows or len(live.alive), max(1, _DECODE_PIXELS // (height * width or 1))
        ),
        on_image=progress.add,
    )
    return SearchRun(
        prompts=call.prompts,
        checkpoints=search.checkpoints,
        strategies=search.strategies,
        num_outputs=search.shape.stages[-1].kept,
        numbers=numbers,
        scoring=scoring,
        live=live,
        log=TraceLog(call.prompts, call.seeds),
        timer=SegmentTimer(),
        progress=progress,
        on_stage=search.on_stage,
        incumbents=search.incumbents,
    )


@contextmanager
def _watched(
    call: PipelineCall, search: CallSearch, run: SearchRun, gates: list[RowGate]
) -> Iterator[None]:
    """Let `run` watch the call made inside the block; `gates` receives those that were put on."""
    live, cache = run.live, call.bound.cache
    with (
        torch.no_grad(),
        gate_denoisers(call.bound, live, max_rows=search.max_rows) as attached,
        search.solver(),
        observe_scheduler(
            call.bound.scheduler,
            run.on_step,
            num_steps=lambda: num_steps_of(call.pipe),
            live_rows=lambda: live.alive,
            before_step=follow_copies(cache, run.before_step, live.num_rows),
        ),
    ):
        gates += attached
        yield


def _cost(run: SearchRun, gates: Sequence[RowGate], device: torch.device, hits: int) -> Cost:
    """What was spent; the pipeline's own decode of the outputs is included."""
    scorer = run.scoring.scorer
    return Cost(
        nfe=sum(gate.rows_run for gate in gates),
        denoiser_calls=sum(gate.calls for gate in gates),
        decodes=scorer.decodes + len(run.numbers.places_of(run.order)),
        preview_decodes=scorer.preview_decodes,
        reward_calls=dict(scorer.reward_calls),
        cache_hits=hits,
        seconds=run.timer.seconds | scorer.stopwatch.seconds,
        peak_memory_mib=peak_memory_mib(device),
    )


def samples_of(output: PipelineOutput) -> Any:
    """The samples in what a pipeline returned; none where it was not called."""
    if output is None:
        return ()
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def _of_all_processes(costs: Sequence[Cost]) -> Cost:
    """Work of all processes, highest peak of memory, and the seconds of the first process."""
    return replace(sum(costs[1:], costs[0]), seconds=costs[0].seconds)
