"""What a run costs: counted work, planned or spent, and the time and memory it took."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gensift.errors import ConfigError, nearest_hint

if TYPE_CHECKING:
    import torch

_COUNTS = ("nfe", "decodes", "preview_decodes", "tokens")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a run, either planned before it or spent by it.

    nfe: denoiser evaluations in rows; with classifier-free guidance both the conditional and the
        unconditional row count.
    denoiser_calls: forward passes of the denoiser, whatever their batch; None in a plan, because
        micro-batching decides it.
    decodes: pictures decoded by the full VAE (previews it decodes included).
    preview_decodes: pictures decoded by a tiny preview decoder, or at reduced size; disjoint from
        `decodes`.
    reward_calls: pictures scored, per reward name.
    tokens: tokens run through a language or autoregressive model; with classifier-free guidance
        those of the unconditional row count too.
    cache_hits: block or model evaluations that a cache answered.
    seconds: wall time per part; parts do not overlap, so their sum is the total.
    peak_memory_mib: highest memory in use, MiB; None when not measured.
    """

    nfe: int = 0
    denoiser_calls: int | None = 0
    decodes: int = 0
    preview_decodes: int = 0
    reward_calls: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    cache_hits: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None

    def __add__(self, other: Cost) -> Cost:
        """Sum of the work and time of both; the peak of memory is the higher one."""
        calls = (self.denoiser_calls, other.denoiser_calls)
        peaks = [p for p in (self.peak_memory_mib, other.peak_memory_mib) if p is not None]
        return Cost(
            **{name: getattr(self, name) + getattr(other, name) for name in _COUNTS},
            denoiser_calls=None if None in calls else sum(c for c in calls if c is not None),
            cache_hits=self.cache_hits + other.cache_hits,
            reward_calls=_added(self.reward_calls, other.reward_calls),
            seconds=_added(self.seconds, other.seconds),
            peak_memory_mib=max(peaks, default=None),
        )

    @property
    def total_seconds(self) -> float:
        """Wall time over all parts, seconds."""
        return sum(self.seconds.values())

    def difference(self, other: Cost) -> dict[str, tuple[int, int]]:
        """Return `{name: (self, other)}` for each count of work in which the two differ.

        Compared: nfe, decodes, preview_decodes, tokens, each reward (`reward_calls.NAME`), and
        denoiser_calls when both sides know it. Cache hits, time and memory are not work.
        """
        mine, theirs = self._work(), other._work()
        if self.denoiser_calls is not None and other.denoiser_calls is not None:
            mine["denoiser_calls"] = self.denoiser_calls
            theirs["denoiser_calls"] = other.denoiser_calls
        pairs = {name: (mine.get(name, 0), theirs.get(name, 0)) for name in mine | theirs}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def same_work(self, other: Cost) -> bool:
        """Whether both count the same work, in the sense of `difference`."""
        return not self.difference(other)

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Cost:
        """Inverse of `to_dict`; absent keys take their defaults.

        Raises:
            ConfigError: if `mapping` holds a key that Cost does not have.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in mapping:
            if name not in known:
                raise ConfigError(f"`{name}` is no part of a cost.{nearest_hint(name, known)}")
        return cls(**mapping)

    def _work(self) -> dict[str, int]:
        counts = {name: getattr(self, name) for name in _COUNTS}
        return counts | {f"reward_calls.{name}": n for name, n in self.reward_calls.items()}


def _added(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


class Stopwatch:
    """Wall time per named part: `with stopwatch.part("denoise"): ...`.

    Parts may nest and repeat. Time inside an inner part belongs to the inner part only, so
    the values of `seconds` add up to the time spent in outermost parts. CUDA work is
    asynchronous: synchronize before a part ends where its own share matters.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._inner: list[float] = []  # per open part, the seconds its finished inner parts took

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time until the block ends, also by an exception, to the part `name`."""
        self._inner.append(0.0)
        start = self._clock()
        try:
            yield
        finally:
            elapsed = self._clock() - start
            own = elapsed - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self._inner:
                self._inner[-1] += elapsed


def peak_memory_mib(device: str | torch.device = "cpu") -> float:
    """Return the peak memory so far in MiB: allocated by torch on CUDA, resident set on a CPU.

    On CUDA the peak counts from the last `torch.cuda.reset_peak_memory_stats`; on a CPU it is
    that of the whole process and never falls.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    # ru_maxrss is in KiB on Linux but in bytes on macOS.
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib
