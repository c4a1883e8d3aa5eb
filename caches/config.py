"""What the configs of all caches have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from caches.fingerprint import Fingerprint


class CacheConfig(Protocol):
    """A calibrated cache: a frozen dataclass that is written to profiles, field by field."""

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What it was calibrated on; None where it was written by hand."""
        ...

    @property
    def num_steps(self) -> int:
        """Denoiser evaluations per context of the loop that it was calibrated for."""
        ...

    @property
    def schedule(self) -> Mapping[str, tuple[int, ...]]:
        """For each part of the denoiser, in order, the steps at which it is computed."""
        ...

    def with_steps(self, num_steps: int) -> Self:
        """The same for a loop of another length.

        Raises:
            ConfigError: it is made for its own length alone.
        """
        ...
