"""What `benchmarks.caches` compares: our caches, those of diffusers, cache-dit, fewer steps."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from caches.cache import Cache
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
    """

    method: str
    setting: str
    switch: Switch
    steps: int | None = None


def ours(method: str, setting: str, make: Callable[[], Cache]) -> CacheContender:
    """One of our caches."""

    @contextmanager
    def switch(pipe: Any) -> Iterator[None]:
        cache = make()
        cache.attach(pipe)
        try:
            yield
        finally:
            cache.detach()

    return CacheContender(method, setting, switch)


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
    import torch
    from diffusers import (
        FasterCacheConfig,
        FirstBlockCacheConfig,
        MagCacheConfig,
        PyramidAttentionBroadcastConfig,
        TaylorSeerCacheConfig,
    )

    def timestep() -> int:
        return int(pipe._current_timestep or 0)

    found = [
        _of_diffusers(
            "FirstBlockCache", f"threshold {limit}", FirstBlockCacheConfig(threshold=limit)
        )
        for limit in (0.02, 0.05, 0.08, 0.12, 0.2)
    ]
    ratios = mag_ratios(pipe, num_steps, calibrate)
    found += [
        _of_diffusers(
            "MagCache",
            f"threshold {limit}, at most {most}",
            MagCacheConfig(
                threshold=limit,
                max_skip_steps=most,
                num_inference_steps=num_steps,
                mag_ratios=ratios,
            ),
        )
        for limit, most in ((0.03, 1), (0.06, 2), (0.06, 3), (0.12, 3), (0.24, 5))
    ]
    found += [
        _of_diffusers(
            "TaylorSeer",
            f"every {every}, order {order}, {'lite' if lite else 'attention'}",
            TaylorSeerCacheConfig(
                cache_interval=every,
                disable_cache_before_step=3,
                max_order=order,
                taylor_factors_dtype=torch.float32,
                use_lite_mode=lite,
            ),
        )
        for every, order, lite in (
            (2, 1, False),
            (3, 1, False),
            (2, 1, True),
            (3, 1, True),
            (4, 1, True),
            (2, 2, True),
        )
    ]
    found += [
        _of_diffusers(
            "pyramid attention broadcast",
            f"every {every}",
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=every,
                spatial_attention_timestep_skip_range=(100, 900),
                spatial_attention_block_identifiers=("transformer_blocks",),
                current_timestep_callback=timestep,
            ),
        )
        for every in (2, 3)
    ]
    found.append(
        _of_diffusers(
            "FasterCache",
            "attention every 2",
            FasterCacheConfig(
                spatial_attention_block_skip_range=2,
                spatial_attention_timestep_skip_range=(-1, 900),
                spatial_attention_block_identifiers=("transformer_blocks",),
                attention_weight_callback=lambda module: 0.5,
                is_guidance_distilled=True,
                tensor_format="BCHW",
                current_timestep_callback=timestep,
            ),
        )
    )
    return found


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
    try:
        import cache_dit
    except ImportError:
        return []

    def contender(limit: float, compute: int) -> CacheContender:
        @contextmanager
        def switch(pipe: Any) -> Iterator[None]:
            config = cache_dit.DBCacheConfig(
                Fn_compute_blocks=compute,
                Bn_compute_blocks=0,
                residual_diff_threshold=limit,
                max_warmup_steps=4,
                num_inference_steps=num_steps,
            )
            with contextlib.redirect_stdout(io.StringIO()):
                cache_dit.enable_cache(pipe, cache_config=config)
            try:
                yield
            finally:
                cache_dit.disable_cache(pipe)

        return CacheContender("cache-dit DBCache", f"F{compute}B0, threshold {limit}", switch)

    return [contender(limit, 1) for limit in (0.04, 0.08, 0.12, 0.2, 0.3)]


def _of_diffusers(method: str, setting: str, config: Any) -> CacheContender:
    @contextmanager
    def switch(pipe: Any) -> Iterator[None]:
        pipe.transformer.enable_cache(config)
        try:
            yield
        finally:
            pipe.transformer.disable_cache()

    return CacheContender(method, setting, switch)


FAILURES = (GensiftError, RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What caches raise where they do not fit; such a contender is reported as failed."""
