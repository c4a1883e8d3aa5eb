"""VAR's sampling against a slow one, and the labels that it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.next_scale import SIDES, build, draw, schedule_of
from torch import Tensor
from torch.nn import functional as F

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.scales import square_schedule
from gensift.pipelines.var.pipeline import guidance_weights

LABEL, NULL, SEED = 3, 5, 11


def test_guidance_grows_from_none_to_all() -> None:
    added = [weight - 1 for weight in guidance_weights(4.0, 10)]
    assert added == pytest.approx([4 * k / 9 for k in range(10)])
    assert added[:3] == pytest.approx([0, 0.444, 0.889], abs=1e-3) and added[-1] == 4


def slow_filter(logits: list[float], top_k: int, top_p: float) -> list[float]:
    """-inf for all but the `top_k` highest, then for the tail of at most 1 - top_p."""
    least = sorted(logits, reverse=True)[top_k - 1] if 0 < top_k < len(logits) else -math.inf
    logits = [value if value >= least else -math.inf for value in logits]
    total = sum(math.exp(value) for value in logits)
    mass = 0.0
    kept = list(logits)
    for at in sorted(range(len(logits)), key=lambda at: logits[at])[:-1]:
        mass += math.exp(logits[at]) / total
        if top_p and mass <= 1 - top_p:
            kept[at] = -math.inf
    return kept


def slow_pick(logits: list[float], uniform: float) -> int:
    shares = [math.exp(value) for value in logits]
    point = uniform * sum(shares)
    for at, share in enumerate(shares):
        point -= share
        if point < 0:
            return at
    return max(range(len(shares)), key=shares.__getitem__)


def slow_row(
    pipe: Any, cfg: float, top_k: int, top_p: float, smooth: bool, seed: int = SEED
) -> Tensor:
    """Latents of one row, by forward passes without cache, token by token."""
    transformer, vae, last = pipe.transformer, pipe.vae, len(SIDES) - 1
    generator = torch.Generator().manual_seed(seed)
    conditions = transformer.conditions(torch.tensor([LABEL, NULL]))
    latents, inputs = torch.zeros(1, 4, SIDES[-1], SIDES[-1]), []
    for k, side in enumerate(SIDES):
        logits = transformer(
            [grid.expand(2, -1, -1, -1) for grid in inputs],
            schedule_of(pipe), conditions, torch.tensor([0, 1]),
        )[:, -side * side :]  # fmt: skip
        t = cfg * k / last
        guided = (1 + t) * logits[0] - t * logits[1]
        kept = [slow_filter(row, top_k, top_p) for row in guided.tolist()]
        if smooth:
            noise = -torch.empty(side * side, 24).exponential_(generator=generator).log()
            tau = max(0.27 * (1 - 0.95 * k / last), 0.005)
            shares = ((torch.tensor(kept) * (1 + k / last) + noise) / tau).softmax(-1)
            codes = shares @ vae.codebook.weight
        else:
            uniform = torch.rand(side * side, generator=generator).tolist()
            picked = [slow_pick(row, u) for row, u in zip(kept, uniform, strict=True)]
            codes = vae.codebook.weight[picked]
        grid = codes.T.reshape(1, 4, side, side)
        if k < last:
            grid = F.interpolate(grid, latents.shape[-2:], mode="bicubic")
        # Of four scales each has a convolution of its own.
        phi = vae.phi[k]
        latents = latents + 0.5 * grid + 0.5 * F.conv2d(grid, phi.weight, phi.bias, padding=1)
        if k < last:
            inputs.append(F.interpolate(latents, (SIDES[k + 1],) * 2, mode="area"))
    return latents


@pytest.mark.parametrize("family", ["var", "var-shared"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("cfg", "top_k", "top_p"), [(4.0, 9, 0.9), (1.5, 0, 0.6), (0.0, 5, 0.0)])
@torch.no_grad()
def test_sampling_is_as_defined(
    family: str, smooth: bool, cfg: float, top_k: int, top_p: float
) -> None:
    pipe = build(family)
    options = {"guidance_scale": cfg, "top_k": top_k, "top_p": top_p, "smooth": smooth}
    found = draw(pipe, LABEL, [SEED], **options)
    wanted = slow_row(pipe, cfg, top_k, top_p, smooth)
    assert torch.allclose(found, wanted, atol=1e-3)
    assert not torch.allclose(draw(pipe, LABEL, [SEED + 1], **options), wanted, atol=0.1)


def test_without_guidance_there_is_one_branch() -> None:
    pipe = build("var")
    assert pipe.start(1, guidance_scale=0).cache.branches == 1
    state = pipe.start([1, 2], guidance_scale=1.0)
    assert state.cache.branches == 2 and state.num_prompts == 2
    assert state.options.guidance[0] == 1  # and yet later scales need the null rows of this one


def test_labels_are_indices_or_names() -> None:
    pipe = build("var")
    labels = [2, "4", "tench", " Tinca tinca", "cock", "tench, Tinca tinca"]
    assert pipe.classes(labels) == [2, 4, 0, 0, 3, 0]
    assert pipe.classes("cock") == [3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (5, "Class 5 is out of range; this model has 5 classes, give an index from 0 to 4"),
        ([0, -1], "Class -1 is out of range"),
        ("17", "Class 17 is out of range"),
        ("tensh", r"Class 'tensh' is unknown.*one of 4 names\. Nearest: 'tench'"),
        ([], "No class label was given"),
    ],
)
def test_other_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("var")(labels)


def test_a_model_without_names_says_so() -> None:
    pipe = build("var")
    pipe.labels = {}
    with pytest.raises(ConfigError, match="as it knows no names"):
        pipe("tench")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": -1.0}, "`guidance_scale` is -1.0"),
        ({"guidance_scale": math.nan}, "`guidance_scale` is nan"),
        ({"top_k": -1}, "`top_k` is -1; give a number from 0"),
        ({"top_p": 1.5}, "`top_p` is 1.5; give a number from 0 to 1"),
        ({"top_p": "high"}, "`top_p` is 'high'; give a number from 0 to 1"),
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt` is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("var")(1, **options)


def test_other_grids_are_refused() -> None:
    pipe = build("var")
    conditions = pipe.transformer.conditions(torch.tensor([1]))
    with pytest.raises(ConfigError, match=r"sides 1, 2, 3, 5 alone; the grids 1, 2, 4 were given"):
        pipe.transformer([], square_schedule((1, 2, 4)), conditions, torch.tensor([0]))
