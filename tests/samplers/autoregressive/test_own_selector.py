"""A search of somebody else's, as the documentation shows one: a selector, and nothing more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.next_scale_search import PROMPTS, SOFT, Brightness, searchable

SCALE = 2
PAGE = Path(__file__).parents[3] / "docs" / "tts-var.md"


def calm_search() -> Any:
    """The class that the page defines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "class CalmSearch" in block]
    names: dict[str, Any] = {}
    exec(text, names)
    return names["CalmSearch"]


@pytest.fixture(scope="module", params=["infinity", "var"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_chooses_and_what_goes_on_is_what_its_seed_gives(family: str) -> None:
    pipe: Any = searchable(family)
    found = calm_search()(Brightness(), num_candidates=2, num_outputs=2)(
        pipe, PROMPTS[family], output_type="pt", **SOFT[family]
    )
    for prompt, result, trace in zip(
        PROMPTS[family], found.results, found.trace.prompts, strict=True
    ):
        selection, final = trace.stages
        assert (selection.step_index, len(selection.alive), len(selection.kept)) == (SCALE, 6, 2)
        by_calm = sorted(selection.alive, key=lambda at: -selection.scores["calm"][at])
        assert set(selection.kept) == set(by_calm[:2]) == set(final.alive)
        for seed, sample in zip(result.seeds, result.samples, strict=True):
            generator = torch.Generator().manual_seed(seed)
            plain = pipe(prompt, generator=[generator], output_type="pt", **SOFT[family]).images
            assert torch.allclose(plain[0], sample, atol=1e-5)
    # Only what is finished is decoded and scored.
    assert (found.cost.decodes, found.cost.reward_calls) == (4, {"brightness": 4})
