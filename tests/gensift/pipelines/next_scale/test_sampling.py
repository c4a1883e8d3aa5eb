"""Filters, draws, and streams of random numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.sampling import RowStreams, draw_bits, draw_entries, filtered
from gensift.randomness import make_generators

CPU = torch.device("cpu")


def kept(logits: list[float], top_k: int, top_p: float) -> list[int]:
    found = filtered(torch.tensor(logits), top_k, top_p)
    return found.isfinite().nonzero().flatten().tolist()


def test_top_k_comes_before_top_p() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    assert kept(logits, 0, 0) == [0, 1, 2, 3]
    assert kept(logits, 2, 0) == [0, 1]
    assert kept(logits, 0, 0.75) == [0, 1, 2]  # 0.1 goes, 0.1 + 0.2 would be too much
    # Of the three that top-k leaves the last has 2/9, which is too little to stay.
    assert kept(logits, 3, 0.75) == [0, 1]
    assert kept(logits, 0, 0.001) == [0]


@given(st.integers(0, 1000), st.integers(0, 8), st.floats(0.05, 0.99))
def test_the_likeliest_always_stays(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(seed)) * 5
    assert int(logits.argmax()) in kept(logits.tolist(), top_k, top_p)


def test_entries_are_drawn_as_often_as_they_are_likely() -> None:
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniform = torch.arange(1000) / 1000
    drawn = draw_entries(chances.log().expand(1000, 4), uniform)
    assert drawn.bincount(minlength=4).tolist() == pytest.approx([500, 0, 300, 200], abs=1)


def test_the_pairs_of_a_token_are_the_logits_of_zero_and_one() -> None:
    logits = torch.tensor([[9.0, -9.0, -9.0, 9.0, -9.0, 9.0]])
    assert draw_bits(logits, torch.full((1, 3), 0.5), 0).tolist() == [[False, True, True]]


@pytest.mark.parametrize("likely", [0, 1])
def test_a_rare_bit_value_is_out_of_question(likely: int) -> None:
    for chance, is_certain in ((0.029, True), (0.031, False)):
        pair = torch.tensor([1 - chance, chance] if likely == 0 else [chance, 1 - chance])
        extreme = torch.tensor([[0.0]]) if likely == 0 else torch.tensor([[1 - 1e-6]])
        drawn = draw_bits(pair.log()[None], extreme, 0.97)
        assert bool(drawn) == (likely == 1 if is_certain else likely == 0)


def test_gumbel_noise_has_its_mean_and_variance_and_a_row_its_own_stream() -> None:
    streams = RowStreams(make_generators([1, 2]))
    noise = streams.gumbel((20000,), slice(None), CPU)
    assert torch.allclose(noise.mean(1), torch.full((2,), 0.5772), atol=0.03)
    assert torch.allclose(noise.var(1), torch.full((2,), torch.pi**2 / 6), atol=0.06)
    alone = RowStreams(make_generators([2])).gumbel((20000,), slice(None), CPU)
    assert torch.equal(noise[1], alone[0])


def test_streams_are_one_per_row() -> None:
    with pytest.raises(ConfigError, match="2 generators were given for 3 pictures"):
        RowStreams.of(make_generators([1, 2]), 3)
    seeded = torch.Generator().manual_seed(3)
    single = RowStreams.of(seeded, 1)
    assert single.generators == [seeded]
    drawn = RowStreams.of(seeded, 2).uniform((4,), slice(None), CPU)
    assert not torch.equal(drawn[0], drawn[1])
