"""BAC on policies: ours, torch's decoder in anybody's model, and gated blocks declared as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.cached_runs import traces_on
from helpers.tiny_policies import (
    LAYERS,
    GatedPolicy,
    PlainPolicy,
    holder,
    observations,
    pipeline,
    run,
)
from torch import Tensor, nn

from caches import blocks
from caches.bac import calibration as bac
from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import (
    BlockFacts,
    DenoiserBlocks,
    Unit,
    declare_block,
    declare_denoiser_blocks,
    units_of,
)
from caches.enable import disable_cache, enable_cache
from caches.evaluation import Denoising
from caches.profile import Profile, read_profile, write_profile
from gensift.config import to_dict
from gensift.denoising import families
from gensift.denoising.families import DenoiserFamily, declare_denoiser
from gensift.denoising.modules import denoisers_of
from gensift.errors import ConfigError, UnsupportedPipelineError

STEPS = 8
# By turns, so that within one layer some units are computed while others are reused.
OWN_UPDATES = ((0, 1, 3), (0, 2, 5), (0, 4), (0,), (0, 1, 2, 3, 4, 5, 6, 7))


@pytest.fixture(autouse=True)
def declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user declares for models that are not ours; forgotten after each test."""
    for module, name in ((families, "_families"), (blocks, "_blocks"), (blocks, "_denoisers")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    declare_denoiser(
        DenoiserFamily(
            name="plain",
            denoiser_class="PlainPolicy",
            rows=("actions", "timestep", "cond"),
            components=("model",),
        )
    )
    declare_denoiser_blocks(
        DenoiserBlocks(denoiser_class="PlainPolicy", stages=("decoder.layers",))
    )
    declare_denoiser(
        DenoiserFamily(
            name="gated",
            denoiser_class="GatedPolicy",
            rows=("x", "timestep", "conditioning_vec"),
            components=("model",),
        )
    )
    declare_denoiser_blocks(
        DenoiserBlocks(denoiser_class="GatedPolicy", stages=("transformer_blocks",))
    )
    attention = partial(Unit, kind="self-attention", is_optional=True, reads_first=True)
    declare_block(
        BlockFacts(
            block_class="GatedBlock",
            units=(
                attention("attn", output="attn"),
                attention("multihead_attn", output="multihead_attn"),
                Unit("mlp", "feed-forward", "mlp"),
            ),
            hidden_argument="x",
            encoder_argument=None,
        )
    )


def _planned(pipe: Any, cond: Tensor, generators: Any) -> Tensor:
    found: Tensor = pipe(
        cond, num_inference_steps=STEPS, generator=generators, output_type="latent"
    ).actions
    return found


def make(name: str) -> Any:
    torch.manual_seed(1)
    if name == "ours":
        return pipeline()
    model: nn.Module = {
        "plain": PlainPolicy,
        "gated": partial(GatedPolicy, has_own_attention=True),
        "gated-multihead": partial(GatedPolicy, has_own_attention=False),
    }[name]()
    return holder(model)


def actions(pipe: Any, cond: Tensor, seed: int = 0) -> Tensor:
    if hasattr(pipe, "model"):
        return run(pipe, cond[:, 0] if _is_gated(pipe) else cond, STEPS, seed)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(cond))]
    return _planned(pipe, cond, generators)


def _is_gated(pipe: Any) -> bool:
    return isinstance(pipe.model, GatedPolicy)


def config(pipe: Any, *, every: bool = False) -> BACConfig:
    names = [unit.name for unit in units_of(denoisers_of(pipe)[0])]
    return BACConfig(
        num_steps=STEPS,
        schedules=tuple(
            UnitSchedule(
                unit=name,
                updates=tuple(range(STEPS)) if every else OWN_UPDATES[i % len(OWN_UPDATES)],
            )
            for i, name in enumerate(names)
        ),
    )


@contextmanager
def cached(pipe: Any, given: Any) -> Iterator[Any]:
    try:
        yield enable_cache(pipe, given)
    finally:
        disable_cache(pipe)


KINDS = ["ours", "plain", "gated", "gated-multihead"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_reuse_nothing_changes_and_nothing_stays(kind: str) -> None:
    pipe, cond = make(kind), observations(3)
    plain, before = actions(pipe, cond), traces_on(pipe)
    with cached(pipe, config(pipe, every=True)) as cache:
        assert traces_on(pipe) != before
        assert torch.equal(actions(pipe, cond), plain)
        report = cache.report()
        assert (report.reused, report.refused) == (0, 0) and report.computed > 0
    assert traces_on(pipe) == before
    assert torch.equal(actions(pipe, cond), plain)


@contextmanager
def counted_runs(unit: Any, seen: list[int]) -> Iterator[None]:
    """Count how often the module that does the work of a sub-block runs."""
    named = {"_sa_block": "self_attn", "_mha_block": "multihead_attn", "_ff_block": "linear2"}
    module = getattr(unit.module, named[unit.method]) if unit.method else unit.module
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return plain(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@pytest.mark.parametrize("kind", KINDS)
def test_every_sub_block_keeps_to_its_own_schedule(kind: str) -> None:
    pipe, cond = make(kind), observations(2)
    given = config(pipe)
    for unit in units_of(denoisers_of(pipe)[0]):
        seen: list[int] = []
        with counted_runs(unit, seen), cached(pipe, given) as cache:
            actions(pipe, cond)
            report = cache.report()
        assert len(seen) == len(given.updates_of[unit.name]), unit.name
    assert report.computed == 2 * sum(map(len, given.updates_of.values()))
    assert report.refused == report.num_bytes == 0


class Stale(nn.Module):
    """A decoder layer written down from its definition, whose sub-blocks may be given."""

    def __init__(self, layer: Any, name: str, updates: Any, step: list[int]) -> None:
        super().__init__()
        self.layer, self.name, self.updates, self.step = layer, name, updates, step
        self.kept: dict[str, Tensor] = {}
        self.self_attn = layer.self_attn  # which the decoder looks at

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Any = None, **kwargs: Any) -> Tensor:
        layer, x, mask = self.layer, tgt, kwargs.get("memory_mask")
        look = {"need_weights": False}
        terms: dict[str, Any] = {
            "sa": lambda x: layer.self_attn(*[layer.norm1(x)] * 3, attn_mask=tgt_mask, **look)[0],
            "ca": lambda x: layer.multihead_attn(
                layer.norm2(x), memory, memory, attn_mask=mask, **look
            )[0],
            "ff": lambda x: layer.linear2(layer.activation(layer.linear1(layer.norm3(x)))),
        }
        for name, term in terms.items():
            if self.step[0] in self.updates[f"{self.name}.{name}"]:
                self.kept[name] = term(x)
            x = x + self.kept[name]
        return x


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_reuse_is_that_of_the_definition(kind: str) -> None:
    pipe, cond = make(kind), observations(2)
    given = config(pipe)
    with cached(pipe, given):
        found = actions(pipe, cond)
    model, step = denoisers_of(pipe)[0], [-1]
    model.register_forward_pre_hook(lambda *_: step.__setitem__(0, step[0] + 1))
    model.decoder.layers = nn.ModuleList(
        [
            Stale(layer, f"decoder.layers.{i}", given.updates_of, step)
            for i, layer in enumerate(model.decoder.layers)
        ]
    )
    assert torch.allclose(found, actions(pipe, cond), atol=1e-5)
    assert step == [STEPS - 1]


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_layers_are_passed_over_where_all_of_them_is_reused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    plain = nn.TransformerDecoderLayer.forward

    def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(layer)
        return plain(layer, *args, **kwargs)

    monkeypatch.setattr(nn.TransformerDecoderLayer, "forward", forward)
    pipe, cond = make(kind), observations(2)
    names = [unit.name for unit in units_of(denoisers_of(pipe)[0])]
    # All of the first layer is computed twice, one part of the second once more.
    updates = {name: (0, 4) if ".0." in name else (0,) for name in names}
    updates["decoder.layers.1.ca"] = (0, 6)
    schedules = tuple(UnitSchedule(unit=name, updates=u) for name, u in updates.items())
    with cached(pipe, BACConfig(num_steps=STEPS, schedules=schedules)):
        actions(pipe, cond)
    layers = list(denoisers_of(pipe)[0].decoder.layers)
    assert [sum(one is layer for one in seen) for layer in layers] == [2, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_robots_do_not_reach_into_each_other(kind: str) -> None:
    pipe = make(kind)
    with cached(pipe, config(pipe)) as cache:
        first = actions(pipe, observations(3))
        # A vector of environments that shrinks, then grows: each chunk starts anew.
        for rows in (1, 4):
            actions(pipe, observations(rows, seed=rows), seed=50)
        assert torch.equal(actions(pipe, observations(3)), first)
        alone = actions(pipe, observations(3)[2:], seed=2)
        assert cache.report().refused == 0
    assert torch.allclose(alone, first[2:], atol=1e-5)


def test_a_layer_that_norms_sums_is_refused_and_left_alone() -> None:
    pipe = holder(PlainPolicy(norm_first=False))
    before = traces_on(pipe)
    given = BACConfig(
        num_steps=STEPS, schedules=(UnitSchedule(unit="decoder.layers.0.sa", updates=(0,)),)
    )
    with pytest.raises(UnsupportedPipelineError, match="norm_first=False"):
        enable_cache(pipe, given)
    assert traces_on(pipe) == before


def test_units_of_a_decoder_lie_in_order() -> None:
    units = units_of(pipeline().transformer)
    expected = [
        (f"decoder.layers.{i}.{name}", i, kind)
        for i in range(LAYERS)
        for name, kind in (
            ("sa", "self-attention"),
            ("ca", "cross-attention"),
            ("ff", "feed-forward"),
        )
    ]
    assert [(unit.name, unit.layer, unit.kind) for unit in units] == expected


def calibrated(pipe: Any, updates: int = 3) -> BACConfig:
    denoising = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=4)
    statistics = bac.record_similarity(denoising, list(observations(8)))
    return bac.config_of(denoising, statistics, bac.block_schedules(statistics, updates))


def test_similarity_is_recorded_from_observations() -> None:
    pipe = pipeline()
    denoising = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=4)
    seen: list[Tensor] = []
    with recorded_feed_forwards(pipe.transformer.decoder.layers[1], seen):
        statistics = bac.record_similarity(denoising, list(observations(8)))
    outputs = torch.cat([torch.stack(seen[:STEPS], 1), torch.stack(seen[STEPS:], 1)]).flatten(2)
    cosines = torch.cosine_similarity(outputs[:, :, None], outputs[:, None], dim=-1).mean(0)
    found = torch.from_numpy(statistics.similarity("decoder.layers.1.ff")).float()
    assert torch.allclose(found, cosines, atol=1e-5)


@contextmanager
def recorded_feed_forwards(layer: Any, seen: list[Tensor]) -> Iterator[None]:
    handle = layer.linear2.register_forward_hook(lambda m, i, output: seen.append(output))
    try:
        yield
    finally:
        handle.remove()


def test_schedules_round_trip_and_refuse_what_is_not_theirs(tmp_path: Any) -> None:
    pipe = pipeline()
    given = calibrated(pipe)
    file = tmp_path / "bac.json"
    fields = {k: v for k, v in to_dict(given).items() if k != "fingerprint"}
    assert given.fingerprint is not None
    profile = Profile(cache="bac", fingerprint=given.fingerprint, config=fields, report={})
    write_profile(file, profile)
    assert read_profile(file).cache == "bac"
    assert BACConfig.from_file(file) == given
    with cached(pipe, file):
        first = actions(pipe, observations(2))
    with cached(pipe, given):
        assert torch.equal(actions(pipe, observations(2)), first)
    with pytest.raises(ConfigError, match="another model"):
        enable_cache(pipeline(n_layer=LAYERS + 1), file)
    strict = replace(given, other_steps="refuse")
    with cached(pipe, strict), pytest.raises(ConfigError, match="step"):
        pipe(observations(1), num_inference_steps=STEPS + 2)


def test_bubbling_adds_updates_and_never_takes_any() -> None:
    pipe = pipeline()
    denoising = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=4)
    statistics = bac.record_similarity(denoising, list(observations(8)))
    own = bac.block_schedules(statistics, 3, num_bubbling=0)
    joined = bac.block_schedules(statistics, 3, num_bubbling=4)
    assert all(set(own[name]) <= set(joined[name]) for name in own)
    assert all(len(steps) == 3 and steps[0] == 0 for steps in own.values())
    assert any(len(joined[name]) > 3 for name in own)


@pytest.mark.parametrize("policy", ["blockwise", "shared", "uniform"])
def test_the_last_step_is_added_where_that_is_asked_for(policy: Any) -> None:
    pipe = pipeline()
    denoising = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=4)
    statistics = bac.record_similarity(denoising, list(observations(8)))
    own = bac.block_schedules(statistics, 3, policy=policy)
    longer = bac.block_schedules(statistics, 3, policy=policy, always_update_last=True)
    assert any(updates[-1] < STEPS - 1 for updates in own.values())
    assert {name: tuple(sorted({*u, STEPS - 1})) for name, u in own.items()} == longer
