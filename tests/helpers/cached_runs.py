"""Runs of tiny pipelines with and without a cache, and a reference cache that is none of ours.

pipe, call_kwargs = build("flux")
reuse = config_of("bac", pipe, UPDATES)
with cached(pipe, reuse) as cache:
    latents = final_latents(pipe, call_kwargs([0, 1], **SHORT))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from helpers.tiny_pipelines import BATCHED_GUIDANCE, GUIDANCE_FACTOR
from torch import Tensor

from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import body_blocks, units_of
from caches.cache import Cache
from caches.enable import disable_cache, enable_cache
from caches.ertacache.config import ERTACacheConfig, ResidualMode
from gensift.denoising.modules import denoisers_of, hooks_on

STEPS = 5
UPDATES = (0, 1, 3)  # reused are 2, and 4 as the last
SHORT = {"num_inference_steps": STEPS}

# Caches by name of the registry and by variant, such as "ertacache-body".
VARIANTS = (*(f"ertacache-{mode}" for mode in get_args(ResidualMode)), "bac")


def config_of(variant: str, pipe: Any, updates: Sequence[int], num_steps: int = STEPS) -> Any:
    """A config written by hand: the same schedule for everything that the cache can reuse."""
    name, _, mode = variant.partition("-")
    if name == "ertacache":
        return ERTACacheConfig(num_steps=num_steps, updates=tuple(updates), residual=mode)  # type: ignore[arg-type]
    return BACConfig(
        num_steps=num_steps,
        schedules=tuple(
            UnitSchedule(unit=unit.name, updates=tuple(updates))
            for unit in units_of(denoisers_of(pipe)[0])
        ),
    )


def units_reused(variant: str, pipe: Any) -> int:
    """What is counted per denoiser row: the row, or each of its sub-blocks."""
    return len(units_of(denoisers_of(pipe)[0])) if variant == "bac" else 1


@contextmanager
def cached(pipe: Any, config: Any) -> Iterator[Cache]:
    """`pipe` with a cache."""
    cache = enable_cache(pipe, config)
    try:
        yield cache
    finally:
        disable_cache(pipe)


def final_latents(pipe: Any, kwargs: dict[str, Any]) -> Tensor:
    """The latents that the pipeline would decode, one row per generator."""
    output = pipe(**kwargs, output_type="latent", return_dict=False)[0]
    return output if isinstance(output, Tensor) else torch.stack(list(output))


def traces_on(pipe: Any) -> list[Any]:
    """Everything that a cache may touch: attributes of the scheduler and of modules, and hooks."""
    state: list[Any] = [type(pipe), set(vars(pipe.scheduler))]
    for denoiser in denoisers_of(pipe):
        for name, module in denoiser.named_modules():
            # Registries without hooks are made by diffusers as well, and do nothing.
            own = vars(module).keys() - {"_diffusers_hook"}
            state.append((name, own, vars(module).get("forward"), hooks_on(module)))
    return state


@contextmanager
def counted(modules: Sequence[torch.nn.Module]) -> Iterator[Counter[torch.nn.Module]]:
    """How often the forward of each module really runs, below any hook that is put on inside."""
    counts: Counter[torch.nn.Module] = Counter()

    def counting(module: torch.nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[module] += 1
            return forward(*args, **kwargs)

        return run

    for module in modules:
        module.forward = counting(module, module.forward)
    try:
        yield counts
    finally:
        for module in modules:
            del module.forward


def num_calls(family: str) -> int:
    """Denoiser calls per step."""
    return 1 if family in BATCHED_GUIDANCE else GUIDANCE_FACTOR[family]


Updates = Sequence[int] | Mapping[str, Sequence[int]]


@contextmanager
def reference(
    pipe: Any, variant: str, updates: Updates, calls_per_step: int
) -> Iterator[Reference]:
    """The same reuse as that of a cache, by other means: for one run of plain, ordered calls.

    Modules are patched by hand, calls are counted, and what is kept is kept as a clone. Give the
    updates of all sub-blocks, or of each by name.
    """
    name, _, mode = variant.partition("-")
    counter = Reference(calls_per_step)
    patched: list[tuple[torch.nn.Module, Callable[..., Any]]] = []

    def patch(module: torch.nn.Module, make: Callable[[Callable[..., Any]], Any]) -> None:
        patched.append((module, module.forward))
        module.forward = make(module.forward)

    try:
        for denoiser in denoisers_of(pipe):
            if name == "bac":
                for unit in units_of(denoiser):
                    own = updates[unit.name] if isinstance(updates, Mapping) else updates
                    patch(unit.module, _KeptOutput(counter, own).around)
                continue
            assert not isinstance(updates, Mapping)
            if mode == "body":
                body = _KeptBody(counter, updates)
                blocks = body_blocks(denoiser)
                for block in blocks:
                    patch(block, body.around(block is blocks[0], block is blocks[-1]))
            else:
                patch(denoiser, _KeptPrediction(counter, updates, mode == "increment").around)
        for denoiser in denoisers_of(pipe):
            patch(denoiser, counter.around)
        yield counter
    finally:
        for module, forward in reversed(patched):
            module.forward = forward
            if getattr(forward, "__func__", None) is type(module).forward:
                del module.forward


class Reference:
    """Counts denoiser calls, and holds what is kept of each call of a step.

    Attributes:
        kept: per place in the denoiser and number of the call in its step.
    """

    def __init__(self, calls_per_step: int) -> None:
        self.kept: dict[tuple[int, int], Any] = {}
        self._calls_per_step, self._count = calls_per_step, -1

    @property
    def step(self) -> int:
        """Number of the present step."""
        return self._count // self._calls_per_step

    @property
    def call(self) -> int:
        """Number of the present call in its step."""
        return self._count % self._calls_per_step

    def select(self, rows: Sequence[int]) -> None:
        """Let row `i` go on with what is kept of row `rows[i]`, in each guidance group."""
        self.kept = {place: _rows(value, rows) for place, value in self.kept.items()}

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a denoiser, counted."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count += 1
            return forward(*args, **kwargs)

        return counted


class _Place:
    """A place in the denoiser at which something is kept."""

    def __init__(self, reference: Reference, updates: Sequence[int]) -> None:
        self.reference, self._updates = reference, updates

    @property
    def is_reused(self) -> bool:
        return self.reference.step not in self._updates

    @property
    def kept(self) -> Any:
        return self.reference.kept[id(self), self.reference.call]

    @kept.setter
    def kept(self, value: Any) -> None:
        self.reference.kept[id(self), self.reference.call] = value


class _KeptOutput(_Place):
    """What a module returned; everything else of the denoiser runs, needed or not."""

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if self.is_reused:
                return _clone(self.kept)
            self.kept = _clone(output)
            return output

        return kept


class _KeptPrediction(_Place):
    """What a denoiser predicted, all of it or less its input; the denoiser runs in any case."""

    def __init__(self, reference: Reference, updates: Sequence[int], is_increment: bool) -> None:
        super().__init__(reference, updates)
        self._is_increment = is_increment

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*args: Any, **kwargs: Any) -> Any:
            given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor | list))
            latents = given if isinstance(given, Tensor) else torch.stack(given)
            output, *rest = forward(*args, **kwargs)
            prediction = output if isinstance(output, Tensor) else torch.stack(output)
            base = self._base(latents, prediction)
            if self.is_reused:
                prediction = self.kept + base
            else:
                self.kept = (prediction - base).clone()
            return (prediction if isinstance(output, Tensor) else list(prediction), *rest)

        return kept

    def _base(self, latents: Tensor, prediction: Tensor) -> Tensor:
        if not self._is_increment:
            return torch.zeros_like(prediction)
        # PixArt predicts a variance too, in as many channels again.
        missing = prediction.shape[1] - latents.shape[1] if latents.ndim > 3 else 0
        filler = latents.new_zeros(len(latents), missing, *latents.shape[2:])
        return torch.cat([latents, filler], 1) if missing else latents


class _KeptBody(_Place):
    """What all blocks together add, put onto the input of the last one, to which it comes as is."""

    def around(self, is_first: bool, is_last: bool) -> Callable[[Any], Callable[..., Any]]:
        def make(forward: Callable[..., Any]) -> Callable[..., Any]:
            def passed(*args: Any, **kwargs: Any) -> Any:
                hidden, encoder = [*args, *kwargs.values()][:2]
                if is_first:
                    self._entered = hidden.clone()
                output = forward(*args, **kwargs)
                is_pair = isinstance(output, tuple)
                if self.is_reused:
                    left = hidden + self.kept if is_last else hidden
                    return (encoder, left) if is_pair else left
                if is_last:
                    self.kept = (output[1] if is_pair else output) - self._entered
                return output

            return passed

        return make


def _clone(value: Any) -> Any:
    return tuple(map(_clone, value)) if isinstance(value, tuple) else value.clone()


def _rows(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_rows(item, rows) for item in value)
    starts = range(0, len(value), len(rows))
    return value[[start + row for start in starts for row in rows]]
