"""Windows, AdaBlock's block ends, lists of positions, and attention rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.llada import MASK, padded
from torch import Tensor

from gensift.pipelines.llada.prompts import PromptRows
from samplers.text.adablock import AdaBlock
from samplers.text.attention import BlockCausal, ContextCausal, Full
from samplers.text.state import Columns, DecodingState
from samplers.text.windows import Blocks, Proposal, Sliding

NONE = -torch.inf


def state(first: list[int], length: int, prompts: list[int] | None = None) -> DecodingState:
    """Rows whose windows begin at `first`, with prompts of so many tokens."""
    sizes = prompts or [3] * len(first)
    made = DecodingState.begin(PromptRows(*padded([[9] * size for size in sizes])), length, MASK)
    made.first = torch.tensor(first)
    return made


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_columns_are_the_chosen_positions_in_order(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(6, 8, generator=random) < 0.4
    chosen[0] = False
    found = Columns.where(chosen)
    longest = max(1, int(chosen.sum(1).max()))
    assert found.index.shape == found.is_open.shape == (6, longest)
    for row in range(6):
        wanted = [at for at in range(8) if chosen[row, at]]
        assert found.index[row][found.is_open[row]].tolist() == wanted
        assert found.is_open[row].tolist() == [True] * len(wanted) + [False] * (
            longest - len(wanted)
        )
        # The rest repeats the last one, so that nothing else is written.
        if wanted:
            assert set(found.index[row, len(wanted) :].tolist()) <= {wanted[-1]}


def test_spans_repeat_their_last_position() -> None:
    found = Columns.span(torch.tensor([2, 5]), torch.tensor([6, 7]))
    assert found.index.tolist() == [[2, 3, 4, 5], [5, 6, 6, 6]]
    assert found.is_open.tolist() == [[True] * 4, [True, True, False, False]]


def test_a_state_begins_masked_and_can_be_cut() -> None:
    made = state([0, 4, 8], 9, [2, 1, 4])
    assert made.prompt_length == 4 and made.prompt_sizes.tolist() == [2, 1, 4]
    assert bool(made.is_masked.all()) and len(made) == 3
    some = made.select(torch.tensor([2, 0]))
    assert some.row_ids.tolist() == [2, 0] and some.first.tolist() == [8, 0]
    assert some.is_real.tolist() == made.is_real[[2, 0]].tolist()
    some.response[0, 0] = 7
    assert some.tokens[0, 4] == 7 and made.tokens[2, 4] == MASK


# --- windows --------------------------------------------------------------------------------------


def test_blocks_end_with_the_response() -> None:
    made = state([0, 4, 8, 9], 10)
    for window, reach in ((Blocks(4), [4, 4, 2, 1]), (Blocks(), [10, 6, 2, 1])):
        assert window.reach(made).tolist() == reach
        assert window.size(made, proposal([[0]] * 4, [[5]] * 4, [[1.0]] * 4)).tolist() == reach
    everywhere = torch.ones(4, 10, dtype=torch.bool)
    assert torch.equal(Blocks(4).limit(everywhere), everywhere)


def test_blocks_may_begin_in_the_prompt() -> None:
    made = state([0, 0, 0, 3], 10, [5, 2, 8, 1])
    assert Blocks(4, with_prompt=True).reach(made).tolist() == [3, 2, 4, 4]


def test_sliding_takes_the_leftmost_masks() -> None:
    masked = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1], [0] * 6]).bool()
    assert Sliding(2).limit(masked).int().tolist() == [
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0] * 6,
    ]
    assert Sliding(2).reach(state([0, 0], 6)).tolist() == [6, 6]


# --- AdaBlock -------------------------------------------------------------------------------------

STOP, OTHER = 4, 11


def proposal(position: Any, tokens: Any, confidence: Any) -> Proposal:
    return Proposal(torch.tensor(position), torch.tensor(tokens), torch.tensor(confidence))


def size(tokens: list[int], confidence: list[float], first: int = 0, **options: Any) -> int:
    """Of a block that begins at `first` of twelve tokens, for what is proposed from there on."""
    window = AdaBlock(**{"length": 5, "delimiters": (STOP, 12), "share": 0.5, **options})
    given = proposal([list(range(first, first + len(tokens)))], [tokens], [confidence])
    (found,) = window.size(state([first], 12), given).tolist()
    return int(found)


PROPOSALS: dict[str, tuple[int, list[int], list[float], dict[str, Any]]] = {
    "no delimiter": (5, [OTHER] * 6, [0.9] * 6, {}),
    "a sure delimiter": (3, [OTHER, OTHER, STOP, OTHER, OTHER, OTHER], [0.5] * 6, {}),
    "the delimiter itself": (1, [STOP] + [OTHER] * 5, [0.5] * 6, {}),
    "not sure enough": (5, [OTHER, STOP] + [OTHER] * 4, [0.9, 0.29] + [0.9] * 4, {}),
    "just sure enough": (2, [OTHER, STOP] + [OTHER] * 4, [0.9, 0.3] + [0.9] * 4, {}),
    "the surest, not the first": (4, [STOP, 7, 7, STOP, 7, STOP], [0.5, 1, 1, 0.8, 1, 0.6], {}),
    "of equals the first": (2, [7, STOP, 7, STOP, 7, 7], [0.1, 0.8, 0.1, 0.8, 0.1, 0.1], {}),
    "any delimiter": (6, [STOP, 7, 7, 7, 7, 12], [0.4, 1, 1, 1, 1, 0.9], {}),
    "longer than usual": (6, [7, 7, 7, 7, 7, STOP], [0.5] * 6, {}),
    "out of sight": (5, [7, 7, 7, STOP, 7, 7], [0.5] * 6, {"share": 0.25}),
    "just in sight": (3, [7, 7, STOP, 7, 7, 7], [0.5] * 6, {"share": 0.25}),
    "nothing in sight": (5, [STOP] * 6, [0.9] * 6, {"share": 0.0}),
    "not that short": (4, [STOP] + [7] * 5, [0.9] * 6, {"shortest": 4}),
    "infinite threshold": (5, [STOP] * 6, [1.0] * 6, {"threshold": float("inf")}),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_block_ends_after_its_surest_delimiter(name: str) -> None:
    wanted, tokens, confidence, options = PROPOSALS[name]
    assert size(tokens, confidence, **options) == wanted


def test_a_block_ends_with_the_response_whatever_is_proposed() -> None:
    assert size([7, 7], [0.9, 0.9], first=10) == 2
    assert size([STOP, 7], [0.9, 0.9], first=10) == 1
    assert size([STOP, 7], [0.9, 0.9], first=10, shortest=4) == 2
    # Positions are counted from the start of the block.
    assert size([7, STOP, 7, 7, 7, 7], [0.9] * 6, first=6) == 2


def test_rows_have_blocks_of_their_own() -> None:
    window = AdaBlock(3, (STOP,), share=0.5)
    made = state([0, 4, 8], 10)
    assert window.reach(made).tolist() == [5, 5, 2]
    given = proposal(
        [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 9, 9, 9]],
        [[7, 7, 7, 7, STOP], [7] * 5, [7, 7, STOP, STOP, STOP]],
        [[0.9] * 5, [0.9] * 5, [0.9, 0.9, NONE, NONE, NONE]],
    )
    assert window.size(made, given).tolist() == [5, 3, 2]
    assert AdaBlock(7, (STOP,), share=0.5).reach(made).tolist() == [7, 6, 2]


# --- who looks at whom ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["full", "block-causal", "context-causal"])
def test_attention_rules_by_nested_loops(rule: str) -> None:
    """Rows with padding, windows at different places, and queries in any order."""
    made = state([0, 4, 2], 8, [5, 2, 4])
    made.end = torch.tensor([4, 8, 5])
    queries = torch.tensor([[12, 0, 5, 7], [3, 4, 8, 11], [1, 2, 9, 6]])
    policy: Any = {
        "full": Full(),
        "block-causal": BlockCausal(3),
        "context-causal": ContextCausal(),
    }
    found = policy[rule].mask(made, queries)
    total = made.tokens.shape[1]
    assert found.shape[0] == 3 and found.shape[-1] == total
    for row in range(3):
        padding = 5 - int(made.prompt_sizes[row])
        begin, end = 5 + int(made.first[row]), 5 + int(made.end[row])
        for at, query in enumerate(queries[row].tolist()):
            for key in range(total):
                if rule == "full":
                    allowed = True
                elif rule == "block-causal":
                    allowed = (key - padding) // 3 <= (query - padding) // 3
                else:
                    allowed = key < end if begin <= query < end else key <= query
                allowed = allowed and key >= padding
                if rule != "full":
                    allowed = allowed or key == query
                assert bool(found[row, 0].expand(4, -1)[at, key]) == allowed


def test_without_padding_everyone_looks_at_everything() -> None:
    made = state([0, 4], 8)
    assert Full().mask(made, torch.zeros(2, 1, dtype=torch.long)) is None


def test_what_changes_with_the_window() -> None:
    made = state([0, 4, 8], 10, [5, 2, 7])
    first = made.first
    assert Full().start(made, first).tolist() == [0, 0, 0]
    assert ContextCausal().start(made, first).tolist() == [7, 11, 15]
    # Padding of 2, 5 and 0 columns; blocks of four from there on.
    starts: Tensor = BlockCausal(4).start(made, first)
    assert starts.tolist() == [2 + 4, 5 + 4, 12]
