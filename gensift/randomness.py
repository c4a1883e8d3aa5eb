"""Seeds and generators: one independent stream of noise per candidate.

A candidate's seed depends on (seed, prompt index, candidate index) alone, so a picture does not
change with batch size, micro-batching, pruning, or the number of devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gensift.errors import ConfigError

if TYPE_CHECKING:
    import torch

SEED_BYTES = 6  # 48 bits: exact in a float64, so seeds survive JSON readers that know only doubles


def candidate_seed(seed: int, prompt_index: int, candidate_index: int) -> int:
    """Return the seed of one candidate, in [0, 2**48).

    The three numbers are hashed, so neighbouring seeds give unrelated streams, and adding prompts
    or candidates never changes the earlier ones.

    Raises:
        ConfigError: if a number is negative or not an integer.
    """
    given = {"seed": seed, "prompt_index": prompt_index, "candidate_index": candidate_index}
    problems = [_complaint(name, value) for name, value in given.items() if not _is_seed(value)]
    if problems:
        raise ConfigError.from_problems("candidate_seed", problems)
    text = f"{seed}/{prompt_index}/{candidate_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=SEED_BYTES).digest(), "big")


def candidate_seeds(seed: int, prompt_index: int, num_candidates: int) -> list[int]:
    """Return the seeds of the candidates 0 .. `num_candidates` - 1 of one prompt.

    Raises:
        ConfigError: if a number is negative or not an integer.
    """
    if not _is_seed(num_candidates):
        raise ConfigError(_complaint("num_candidates", num_candidates) + ".")
    return [candidate_seed(seed, prompt_index, index) for index in range(num_candidates)]


def derived_seed(seeds: Sequence[int], purpose: str) -> int:
    """Return a seed, in [0, 2**48), for another stream of whoever owns `seeds`.

    The streams of different purposes have nothing to do with each other, nor with `seeds`.

    Raises:
        ConfigError: if a seed is negative or not an integer.
    """
    problems = [_complaint(f"seeds[{i}]", s) for i, s in enumerate(seeds) if not _is_seed(s)]
    if problems:
        raise ConfigError.from_problems("derived_seed", problems)
    text = f"{purpose!r} {list(seeds)}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=SEED_BYTES).digest(), "big")


def make_generators(
    seeds: Sequence[int], device: str | torch.device = "cpu"
) -> list[torch.Generator]:
    """Return one `torch.Generator` per seed, on `device`.

    CPU generators are the default on every device: diffusers draws on the CPU and moves the noise,
    which makes a seed give the same picture on any machine.

    Raises:
        ConfigError: if a seed is negative or not an integer.
    """
    import torch

    problems = [_complaint(f"seeds[{i}]", s) for i, s in enumerate(seeds) if not _is_seed(s)]
    if problems:
        raise ConfigError.from_problems("make_generators", problems)
    return [torch.Generator(device=device).manual_seed(seed) for seed in seeds]


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _complaint(name: str, value: object) -> str:
    return f"`{name}` is {value!r}; give an integer of at least 0"
