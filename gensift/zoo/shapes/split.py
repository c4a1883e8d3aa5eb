"""Which prompts and combinations training never sees.

Two levels, both decided by a stable hash of the wording:

* a held-out *combination* (colour, shape, relation, colour, shape) is absent in every wording;
* a held-out *prompt* is absent as a string, while its meaning may occur in another wording
  ("a red circle left of a blue square" for "a blue square right of a red circle").
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from gensift.zoo.shapes.grammar import Meaning, all_meanings

COMBINATION_SHARE = 0.10
PROMPT_SHARE = 0.15


def _share(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_held_out_combination(meaning: Meaning) -> bool:
    """Whether this pair of objects in this relation is kept out of training in all wordings."""
    if meaning.second is None:
        return False
    return _share(f"combination {meaning.canonical}") < COMBINATION_SHARE


def is_held_out_prompt(meaning: Meaning) -> bool:
    """Whether training never sees this wording (all held-out combinations included)."""
    return is_held_out_combination(meaning) or _share(f"string {meaning}") < PROMPT_SHARE


@lru_cache(maxsize=1)
def training_meanings() -> tuple[Meaning, ...]:
    """All prompts that training may use."""
    return tuple(meaning for meaning in all_meanings() if not is_held_out_prompt(meaning))


@lru_cache(maxsize=1)
def held_out_meanings() -> tuple[Meaning, ...]:
    """All prompts that training never sees; every published figure is measured on these."""
    return tuple(meaning for meaning in all_meanings() if is_held_out_prompt(meaning))
