"""What every cache is: hooks on the denoisers of a pipeline, kept in step by its scheduler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from caches.call import Batch, CachedCall, CallLedger, layout_of
from caches.clock import StepClock
from caches.config import CacheConfig
from caches.fingerprint import Fingerprint, guidance_scale_of, scheduled_sigmas
from caches.graphs import between_graphs, outside_graphs
from gensift.denoising.arguments import argument_of
from gensift.denoising.families import DenoiserFamily, family_of
from gensift.denoising.modules import AttachedHook, ContextHook, denoisers_of, hooks_on
from gensift.denoising.rows_in_call import rows_in_call
from gensift.errors import ConfigError
from gensift.protocols import Pipeline


@dataclass(frozen=True)
class CacheReport:
    """What an attached cache did so far.

    Attributes:
        runs: generations begun.
        computed: evaluations that ran, in rows (of the denoiser, or of its sub-blocks).
        reused: evaluations that the cache answered, in rows.
        refused: rows that the schedule would have reused but that were computed, because their row,
            shape or step gave rise to doubt.
        num_bytes: memory that the cache holds now, bytes.
    """

    runs: int
    computed: int
    reused: int
    refused: int
    num_bytes: int

    @property
    def reused_share(self) -> float:
        """Share of the evaluations that were reused."""
        return self.reused / max(1, self.computed + self.reused)


@dataclass
class Tally:
    """Counts of rows, see `CacheReport`."""

    computed: int = field(default=0)
    reused: int = field(default=0)
    refused: int = field(default=0)


class DenoiserCache(ABC):
    """What a cache keeps of one denoiser, and how it answers for it."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    @abstractmethod
    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """The denoiser's output for some rows.

        Args:
            call: step, context and rows.
            given: the latents as the denoiser gets them: a tensor `(rows, ...)`, or a list of rows.
            denoise: runs the denoiser as it is.
        """

    @abstractmethod
    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """See `Cache.select`."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory held, bytes."""

    @property
    def is_in_place(self) -> bool:
        """Whether the modules with hooks of its own are still those that the denoiser runs."""
        return True

    def detach(self) -> None:
        """Take off hooks of its own; most have none."""
        return


class CacheHook(ContextHook):
    """Hook on the root of a denoiser: finds out what call this is and lets the cache answer."""

    def __init__(self, cache: Cache, part: DenoiserCache) -> None:
        super().__init__()
        self.cache, self.part = cache, part
        self.ledger = CallLedger()
        self.is_off = False

    def initialize_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        """Refuse denoisers that are not declared."""
        self._family: DenoiserFamily = family_of(module)
        return module

    @between_graphs
    def new_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        """Stand in for `module.forward`."""
        plain = self.plain_forward
        if self.is_off:
            return plain(*args, **kwargs)
        given, call = self._enter(module, args, kwargs)
        output = self.part.run(call, given, lambda: plain(*args, **kwargs))
        self.ledger.leave(call)
        return output

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        """Called by diffusers at the end of a pipeline call."""
        self.clear()
        return module

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """See `Cache.select`."""
        self.ledger.select(dict(sources), num_candidates)
        self.part.select(sources, num_candidates)

    def clear(self) -> None:
        """Forget everything."""
        self.ledger.clear()
        self.part.clear()

    @outside_graphs
    def _enter(
        self, module: torch.nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Batch, CachedCall]:
        """The latents of a call, and what call it is."""
        batch: Batch = argument_of(module, self._family.leading, args, kwargs)
        step_index = self.cache.step_index
        if step_index is not None:
            self.cache.tell_of_differences(batch)
        rows = rows_in_call(len(batch))
        return batch, self.ledger.enter(step_index, self.context.name, rows, layout_of(batch))


class Cache(ABC):
    """A feature cache: attached to a pipeline it answers some of the denoiser's evaluations.

    What was kept is forgotten at the start of every run, when the scheduler makes its schedule. A
    row is only given what was kept of that very row one step ago; in doubt the denoiser runs.

    Attributes:
        name: of its method.
        config: what was calibrated; None for what only watches.
        tally: what its parts count; anew from each time that it is attached.
    """

    name: ClassVar[str]
    config: CacheConfig | None

    def __init__(self, config: CacheConfig | None = None) -> None:
        """Make a cache for one pipeline at a time."""
        self.config = config
        self._attached: list[AttachedHook] = []
        self.tally = Tally()
        self._clock: StepClock | None = None
        self._is_on = False

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What it was calibrated on; None where nobody knows."""
        return None if self.config is None else self.config.fingerprint

    @property
    def is_attached(self) -> bool:
        """Whether it is on a pipeline now."""
        return self._is_on

    @property
    def clock(self) -> StepClock:
        """Follows the scheduler of the pipeline that it is on, or was on last.

        Raises:
            ConfigError: it never was on one.
        """
        if self._clock is None:
            raise ConfigError(f"This {self.name} was never attached; call attach(pipe) first.")
        return self._clock

    @property
    def step_index(self) -> int | None:
        """Place in the schedule of what is denoised now; None outside of a run that is followed.

        Raises:
            ConfigError: the pipeline has another scheduler than the one that is followed.
        """
        if self._pipe.scheduler is not self.clock.scheduler:
            raise ConfigError(
                f"The scheduler of {type(self._pipe).__name__} was exchanged since its cache was "
                "enabled, so that its steps are not known; call disable_cache, then enable_cache."
            )
        return self.clock.step_index if self.clock.is_running else None

    def attach(self, pipe: Pipeline) -> None:
        """Put the cache on a pipeline; on failure the pipeline is as before.

        Raises:
            ConfigError: it is attached already, the pipeline has a cache, or it is not made for it.
            UnsupportedPipelineError: the denoiser is not declared, or has nothing to hook.
        """
        if self.is_attached:
            raise ConfigError(f"This {self.name} is attached already; detach it, or make another.")
        denoisers = denoisers_of(pipe)
        for module in denoisers:
            _refuse_second(module)
        self.check(pipe)
        self._clock = StepClock(pipe.scheduler, on_start=self._begin, on_end=self.reset)
        self._is_on = True
        self._pipe, self.tally, self._has_told = pipe, Tally(), False
        try:
            for module in denoisers:
                hook = CacheHook(self, self.make_part(module))
                self._attached.append(AttachedHook(module, hook, "cache"))
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take the cache off; the pipeline is as it was before.

        Raises:
            ConfigError: it is not attached, or a search is at work on the pipeline.
        """
        if not self._is_on:
            raise ConfigError(f"This {self.name} is not attached, so it cannot be taken off.")
        self.clock.stop()
        self._is_on = False
        for attached in reversed(self._attached):
            attached.hook.is_off = True
            attached.remove()
            attached.hook.part.detach()
        self._attached = []

    def reset(self) -> None:
        """Forget what was kept."""
        for hook in self._hooks():
            hook.clear()

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """Follow a search that prunes or branches: row `r` goes on from the row `sources[r]`.

        Args:
            sources: for each row that is alive from now on, the row it continues.
            num_candidates: rows of the search, dead ones included.
        """
        for hook in self._hooks():
            hook.select(sources, num_candidates)

    def report(self) -> CacheReport:
        """What the cache did since it was attached."""
        tally = self.tally
        held = sum(hook.part.num_bytes for hook in self._hooks())
        return CacheReport(
            self.clock.runs, tally.computed, tally.reused, tally.refused, num_bytes=held
        )

    def ensure_attached(self) -> None:
        """Put hooks on again that offloading has dropped; called where a run begins."""
        for index, attached in enumerate(self._attached):
            if not attached.is_reached:
                hook = attached.hook
                attached.remove()
                self._attached[index] = AttachedHook(attached.module, hook, "cache")

    def check(self, pipe: Pipeline) -> None:
        """Refuse a pipeline that this cache is not made for."""
        if self.fingerprint is not None:
            self.fingerprint.check_pipeline(pipe)

    def begin(self) -> None:
        """Called when a schedule was made; a cache may still change it."""
        return

    @abstractmethod
    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """The part of this cache that answers for one denoiser."""

    def tell_of_differences(self, batch: Batch) -> None:
        """Warn once where a run on the latents `batch` is not what was calibrated on."""
        if self._has_told or self.fingerprint is None or not isinstance(batch[0], Tensor):
            return
        self._has_told = True
        guidance_scale, latents = guidance_scale_of(self._pipe), tuple(batch[0].shape)
        self.fingerprint.warn_of_run(self._sigmas, guidance_scale, latents)

    def _begin(self) -> None:
        self.reset()
        self.ensure_attached()
        for attached in self._attached:
            if not attached.hook.part.is_in_place:
                raise ConfigError(
                    f"Modules of {type(attached.module).__name__} were exchanged since its cache "
                    "was enabled, as loading an adapter does; call disable_cache, then "
                    "enable_cache."
                )
        if self.fingerprint is not None:  # before the cache moves them
            self._sigmas = scheduled_sigmas(self.clock.scheduler)
        self.begin()

    def _hooks(self) -> list[CacheHook]:
        return [attached.hook for attached in self._attached]


def cache_of(pipe: Pipeline) -> Cache | None:
    """The cache that is on a pipeline now, or None."""
    for module in denoisers_of(pipe):
        for hook in hooks_on(module):
            if isinstance(hook, CacheHook) and not hook.is_off:
                return hook.cache
    return None


def _refuse_second(module: torch.nn.Module) -> None:
    own = any(isinstance(hook, CacheHook) and not hook.is_off for hook in hooks_on(module))
    if own or getattr(module, "is_cache_enabled", False):
        raise ConfigError(f"{type(module).__name__} has a cache already; call disable_cache first.")
