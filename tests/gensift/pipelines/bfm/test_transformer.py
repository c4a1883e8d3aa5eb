"""The blockwise transformer: its layout, its conditions, and what keeps rows apart."""

from __future__ import annotations

import pytest
import torch
from helpers.blockwise import bfm, sit
from torch import Tensor
from torch.nn.functional import silu

from gensift.errors import ConfigError
from gensift.pipelines.bfm.patches import to_latents, to_tokens
from gensift.pipelines.bfm.rotary import rotary_angles
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel


def inputs(rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, 8, 8, generator=generator), torch.arange(rows)


def test_a_patch_is_laid_out_as_channel_row_column() -> None:
    latents, _ = inputs()
    tokens = to_tokens(latents, 2)
    # Token 5 of a 4 x 4 grid: second row, second column.
    assert torch.equal(tokens[0, 5], latents[0, :, 2:4, 2:4].flatten())
    assert torch.equal(to_latents(tokens, 2, 8, 8), latents)


def test_half_of_a_head_turns_with_the_row_and_half_with_the_column() -> None:
    angles = rotary_angles(2, 3, 72, torch.device("cpu"))
    assert angles.shape == (6, 36)
    assert torch.equal(angles[4, :18] * 1, angles[3, :18]) and (angles[4, 0], angles[4, 18]) == (
        1,
        1,
    )
    assert angles[5, 19] == pytest.approx(2 * 10000 ** (-2 / 36))


def test_the_velocity_by_hand() -> None:
    """The network of the method page, said once more in plain operations."""
    model = bfm()
    latents, labels = inputs()
    shared = model.shared
    with torch.no_grad():
        found = model(latents, 0.5, labels, segment=1)
        half = torch.exp(-torch.arange(128) * torch.log(torch.tensor(10000.0)) / 128) * 0.5
        wave = torch.cat([half.cos(), half.sin()])
        time = shared.condition.time_out(silu(shared.condition.time_in(wave)))
        c = time + shared.condition.classes(labels)
        f = shared.trunk_patches(to_tokens(latents, 2))
        common = shared.trunk_modulation(silu(c))[:, None]
        for block, own in zip(model.trunk.blocks, model.trunk.modulations, strict=True):
            f = by_hand(block, f, own.up(own.down(silu(c)))[:, None] + common)
        assert torch.allclose(found.features, f, atol=1e-5)
        both = silu(torch.cat([c[:, None].expand(-1, 16, -1), f], dim=-1))
        hidden = shared.segment_patches(to_tokens(latents, 2))
        common = shared.segment_modulation(both)
        for block, own in zip(model.segments[1].blocks, model.segments[1].modulations, strict=True):
            hidden = by_hand(block, hidden, own.up(own.down(both)) + common)
        shift, scale = shared.final.modulation(both).chunk(2, -1)
        patches = shared.final.out(norm(hidden) * (1 + scale) + shift)
    assert torch.allclose(found.sample, to_latents(patches, 2, 8, 8), atol=1e-5)


def norm(hidden: Tensor) -> Tensor:
    centred = hidden - hidden.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def by_hand(block: torch.nn.Module, hidden: Tensor, modulation: Tensor) -> Tensor:
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, -1)
    hidden = hidden + gate_a * attention(block.attention, norm(hidden) * (1 + scale_a) + shift_a)
    inner = block.feed_forward.inner(norm(hidden) * (1 + scale_f) + shift_f)
    return hidden + gate_f * block.feed_forward.outer(
        torch.nn.functional.gelu(inner, approximate="tanh")
    )


def attention(layer: torch.nn.Module, hidden: Tensor) -> Tensor:
    rows, tokens, width = hidden.shape
    query, key, value = layer.to_qkv(hidden).view(rows, tokens, 3, 2, 16).permute(2, 0, 3, 1, 4)
    query = turned(
        query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.query_norm.weight
    )
    key = turned(key / (key.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.key_norm.weight)
    weights = (query @ key.transpose(-1, -2) / 4).softmax(-1)
    return layer.to_out((weights @ value).transpose(1, 2).reshape(rows, tokens, width))


def turned(vectors: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, turned by the row (first half) and the column."""
    pairs = torch.view_as_complex(vectors.unflatten(-1, (8, 2)).contiguous())
    frequencies = 10000.0 ** (-torch.arange(4) / 4)
    place = torch.arange(16)
    angles = torch.cat([(place // 4)[:, None] * frequencies, (place % 4)[:, None] * frequencies], 1)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def test_segments_share_all_but_their_stacks() -> None:
    model = bfm()
    latents, labels = inputs()
    first, second = (model(latents, 0.5, labels, segment=m) for m in (0, 1))
    assert torch.equal(first.features, second.features)
    assert not torch.allclose(first.sample, second.sample)


def test_the_approximation_is_exact_where_the_segment_starts() -> None:
    model = bfm()
    latents, labels = inputs()
    full = model(latents, 2 / 3, labels)
    again = model(latents, 2 / 3, labels, features=full.features, residual_weight=torch.zeros(3))
    assert torch.equal(again.sample, full.sample)
    later = model(
        latents, 0.5, labels, features=full.features, residual_weight=torch.full((3,), 0.5)
    )
    assert not torch.allclose(
        later.sample, model(latents, 0.5, labels, features=full.features).sample
    )
    assert torch.equal(later.features, full.features)


def test_an_untrained_approximation_holds_features() -> None:
    torch.manual_seed(0)
    fresh = BFMTransformer2DModel(**{**bfm().config, "frn_depth": 2})
    latents, labels = inputs()
    condition = fresh.condition(torch.full((3,), 0.5), labels)
    assert not fresh.residual(latents, condition).any()


def test_single_rows_can_be_refreshed() -> None:
    model = bfm()
    latents, labels = inputs()
    old = model(latents + 1, 2 / 3, labels).features
    refresh = torch.tensor([True, False, True])
    mixed = model(latents, 0.5, labels, features=old, refresh=refresh)
    full, held = model(latents, 0.5, labels), model(latents, 0.5, labels, features=old)
    for row in range(3):
        wanted = full if refresh[row] else held
        assert torch.allclose(mixed.sample[row], wanted.sample[row], atol=1e-6)
        assert torch.allclose(mixed.features[row], wanted.features[row], atol=1e-6)


@pytest.mark.parametrize("make", [bfm, sit])
def test_a_row_alone_is_the_row_in_a_batch(make: object) -> None:
    model = make()  # type: ignore[operator]
    latents, labels = inputs()
    whole = model(latents, 0.4, labels).sample
    for row in range(3):
        alone = model(latents[row : row + 1], 0.4, labels[row : row + 1]).sample
        assert torch.allclose(alone, whole[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("make", [bfm, sit])
def test_half_precision_gives_a_float32_velocity(make: object) -> None:
    model = make()  # type: ignore[operator]
    latents, labels = inputs()
    exact = model(latents, 0.4, labels).sample
    rounded = model.to(torch.bfloat16)(latents, 0.4, labels).sample
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_rows_of_different_segments_are_refused() -> None:
    latents, labels = inputs()
    with pytest.raises(ConfigError, match=r"fall in segments \[0, 1\]"):
        bfm()(latents, torch.tensor([1.0, 0.9, 0.5]), labels)


def test_wrong_calls_are_refused() -> None:
    latents, labels = inputs()
    with pytest.raises(ConfigError, match="has 0 to 2"):
        bfm()(latents, 0.5, labels, segment=3)
    features = bfm()(latents, 0.5, labels).features
    with pytest.raises(ConfigError, match="has no FRN"):
        bfm(frn_depth=0)(latents, 0.5, labels, features=features, residual_weight=torch.zeros(3))
    with pytest.raises(ConfigError, match="has segment 0 alone"):
        sit()(latents, 0.5, labels, segment=1)
    with pytest.raises(ConfigError, match="no multiple of 4"):
        bfm(hidden_size=36)
