"""What `benchmarks.caches` compares: our caches, those of diffusers, cache-dit, fewer steps."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from caches.cache import Cache
from gensift.denoising.modules import denoisers_of
from gensift.errors import GensiftError

Switch = Callable[[Any], AbstractContextManager[None]]


@dataclass(frozen=True)
class CacheContender:
    """One way to spend less on denoising.

    Attributes:
        method: whose it is; one curve of the plot.
        setting: what was set, in a few words.
        switch: puts it on a pipeline for the length of a block.
        steps: denoising steps, where they are fewer.
        ideal: speed-up of the denoiser that the skipped share of its time allows, where known.
    """

    method: str
    setting: str
    switch: Switch
    steps: int | None = None
    ideal: float | None = None


def ours(
    method: str, setting: str, make: Callable[[], Cache], ideal: float | None = None
) -> CacheContender:
    """One of our caches."""

    @contextmanager
    def switch(pipe: Any) -> Iterator[None]:
        cache = make()
        cache.attach(pipe)
        try:
            yield
        finally:
            cache.detach()

    return CacheContender(method, setting, switch, ideal=ideal)


def fewer_steps(steps: int) -> CacheContender:
    """The baseline that everybody has."""
    return CacheContender(
        "fewer steps", f"{steps} steps", lambda pipe: contextlib.nullcontext(), steps
    )


def diffusers_caches(
    pipe: Any, num_steps: int, calibrate: Callable[[], None]
) -> list[CacheContender]:
    """FirstBlockCache, MagCache, TaylorSeer, pyramid attention broadcast and FasterCache.

    Args:
        pipe: whose denoiser they are for.
        num_steps: of the loop.
        calibrate: runs the pipeline once, for MagCache's ratios.
    """
    ratios = mag_ratios(pipe, num_steps, calibrate)
    return [
        *(first_block_cache(limit) for limit in (0.02, 0.05, 0.08, 0.12, 0.2)),
        *(
            mag_cache(ratios, num_steps, limit, most)
            for limit, most in ((0.03, 1), (0.06, 2), (0.06, 3), (0.12, 3), (0.24, 5))
        ),
        *(
            taylor_seer(every, order, is_lite)
            for every, order, is_lite in (
                (2, 1, False),
                (3, 1, False),
                (2, 1, True),
                (3, 1, True),
                (4, 1, True),
                (2, 2, True),
            )
        ),
        *(pyramid_attention_broadcast(pipe, every) for every in (2, 3)),
        faster_cache(pipe),
    ]


def first_block_cache(limit: float) -> CacheContender:
    """FirstBlockCache: the other blocks are skipped while the first changes less than `limit`."""
    from diffusers import FirstBlockCacheConfig

    config = FirstBlockCacheConfig(threshold=limit)
    return _of_diffusers("FirstBlockCache", f"threshold {limit:.3g}", config)


def mag_cache(ratios: Sequence[float], num_steps: int, limit: float, most: int) -> CacheContender:
    """MagCache with these ratios, one per step; at most `most` steps are skipped in a row."""
    from diffusers import MagCacheConfig

    config = MagCacheConfig(
        threshold=limit,
        max_skip_steps=most,
        num_inference_steps=num_steps,
        mag_ratios=list(ratios),
    )
    return _of_diffusers("MagCache", f"threshold {limit}, at most {most}", config)


def taylor_seer(every: int, order: int, is_lite: bool) -> CacheContender:
    """TaylorSeer: attention outputs are extrapolated, or in the lite form the last projection's."""
    import torch
    from diffusers import TaylorSeerCacheConfig

    config = TaylorSeerCacheConfig(
        cache_interval=every,
        disable_cache_before_step=3,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=is_lite,
        # By itself it looks for modules called `attn`, and so finds none in Wan.
        cache_identifiers=None if is_lite else [r"[^.]*blocks\.\d+\.attn\d?"],
    )
    form = "lite" if is_lite else "attention"
    return _of_diffusers("TaylorSeer", f"every {every}, order {order}, {form}", config)


def pyramid_attention_broadcast(pipe: Any, every: int) -> CacheContender:
    """Pyramid attention broadcast: self-attention of all blocks is computed every so often."""
    from diffusers import PyramidAttentionBroadcastConfig

    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=every,
        spatial_attention_timestep_skip_range=(100, 900),
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=_timestep_of(pipe),
    )
    return _of_diffusers("pyramid attention broadcast", f"every {every}", config)


def faster_cache(pipe: Any) -> CacheContender:
    """FasterCache on attention."""
    from diffusers import FasterCacheConfig

    config = FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 900),
        spatial_attention_block_identifiers=("transformer_blocks",),
        attention_weight_callback=lambda module: 0.5,
        is_guidance_distilled=True,
        tensor_format="BCHW",
        current_timestep_callback=_timestep_of(pipe),
    )
    return _of_diffusers("FasterCache", "attention every 2", config)


def _timestep_of(pipe: Any) -> Callable[[], int]:
    return lambda: int(pipe._current_timestep or 0)


def mag_ratios(pipe: Any, num_steps: int, calibrate: Callable[[], None]) -> list[float]:
    """MagCache's own calibration, which prints its result and returns nothing."""
    from diffusers import MagCacheConfig

    printed = io.StringIO()
    pipe.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=num_steps))
    try:
        with contextlib.redirect_stdout(printed):
            calibrate()
    finally:
        pipe.transformer.disable_cache()
    listed = re.findall(r"\[([^\]]*)\]", printed.getvalue())
    return [float(number) for number in listed[-1].split(",")]


def cache_dit_caches(num_steps: int) -> list[CacheContender]:
    """cache-dit's DBCache; none where that package is not installed."""
    if importlib.util.find_spec("cache_dit") is None:
        return []
    return [dual_block_cache(num_steps, limit) for limit in (0.04, 0.08, 0.12, 0.2, 0.3)]


def dual_block_cache(num_steps: int, limit: float, compute: int = 1) -> CacheContender:
    """cache-dit's DBCache: the blocks behind the first `compute` are skipped, as FirstBlockCache.

    Its switch raises ImportError where cache-dit is not installed.
    """

    @contextmanager
    def switch(pipe: Any) -> Iterator[None]:
        import cache_dit

        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=compute,
            Bn_compute_blocks=0,
            residual_diff_threshold=limit,
            max_warmup_steps=4,
            num_inference_steps=num_steps,
        )
        with _as_before(denoisers_of(pipe)[0]):
            with contextlib.redirect_stdout(io.StringIO()):
                cache_dit.enable_cache(pipe, cache_config=config)
            try:
                yield
            finally:
                cache_dit.disable_cache(pipe)

    return CacheContender("cache-dit DBCache", f"F{compute}B0, threshold {limit:.3g}", switch)


@contextmanager
def _as_before(denoiser: Any) -> Iterator[None]:
    """Undo what cache-dit leaves behind: another `forward`, and parts in another order.

    FirstBlockCache takes the first list of blocks for the one that runs first.
    """
    attributes = [(vars(part), dict(vars(part))) for part in denoiser.modules()]
    parts = dict(denoiser.named_children())
    try:
        yield
    finally:
        for present, own in attributes:
            present.clear()
            present.update(own)
        for name, part in parts.items():
            delattr(denoiser, name)
            setattr(denoiser, name, part)


def _of_diffusers(method: str, setting: str, config: Any) -> CacheContender:
    @contextmanager
    def switch(pipe: Any) -> Iterator[None]:
        denoiser: Any = denoisers_of(pipe)[0]
        denoiser.enable_cache(config)
        try:
            yield
        finally:
            denoiser.disable_cache()

    return CacheContender(method, setting, switch)


FAILURES = (GensiftError, RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What caches raise where they do not fit; such a contender is reported as failed."""
