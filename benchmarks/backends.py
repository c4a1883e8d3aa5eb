"""Attention backends side by side: the native kernels, and xformers where it works."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from diffusers import UNet2DConditionModel

from benchmarks.gpu_subject import Subject
from benchmarks.timing import interleaved, ratio, summary
from gensift.errors import GensiftError
from gensift.pipelines.attention import require_xformers


def compared_backends(
    subject: Subject, rounds: int, key: str, measure: Callable[[], float]
) -> dict[str, Any]:
    """What `measure` says, in seconds, with each backend; `key` names it."""
    backends = ["native"]
    unusable = _why_no_xformers(subject, measure)
    if unusable is None:
        backends.append("xformers")
    try:
        runs = {name: lambda n=name: _with_backend(subject, n, measure) for name in backends}
        timings = interleaved(runs, rounds, subject.device, warm_ups=1)
    finally:
        use_backend(subject.denoiser, "native")
    seconds = {name: [timing.result for timing in timings[name]] for name in backends}
    result: dict[str, Any] = {
        name: {
            key: median(seconds[name]),
            "peak_memory_mib": summary(timings[name])["peak_memory_mib"],
        }
        for name in backends
    }
    if unusable is not None:
        return result | {"xformers": {"unusable": unusable}}
    return result | {"xformers_over_native": ratio(seconds["xformers"], seconds["native"])}


def _why_no_xformers(subject: Subject, measure: Callable[[], float]) -> str | None:
    """The reason, found by a probe and then by a short run; None when it works."""
    try:
        require_xformers(subject.device)
        _with_backend(subject, "xformers", measure)
    except (GensiftError, RuntimeError, NotImplementedError, ValueError, ImportError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _with_backend(subject: Subject, backend: str, measure: Callable[[], float]) -> float:
    use_backend(subject.denoiser, backend)
    return measure()


def use_backend(denoiser: Any, backend: str) -> None:
    """Switch a denoiser to "native" or "xformers"."""
    if not isinstance(denoiser, UNet2DConditionModel):
        denoiser.set_attention_backend(backend)
    # `set_attention_backend` reaches no attention layer of a UNet and says nothing.
    elif backend == "xformers":
        denoiser.enable_xformers_memory_efficient_attention()
    else:
        denoiser.disable_xformers_memory_efficient_attention()
