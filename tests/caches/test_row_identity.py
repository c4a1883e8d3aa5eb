"""What is kept of a row is given to that row alone, whoever else runs beside it.

The denoiser is called by hand, as a row gate calls it: with some rows of the pipeline's call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.cached_runs import VARIANTS, cached, config_of, final_latents, reference, units_reused
from helpers.gated_runs import relative_error
from helpers.tiny_pipelines import IMAGE_SIDE, build, text
from helpers.toy_denoiser import Loop, declare_toy, toy_pipeline
from torch import Tensor, nn

from gensift.denoising.arguments import bind_arguments
from gensift.denoising.families import family_of
from gensift.denoising.row_selection import RowSelection, select_nested, select_rows
from gensift.denoising.rows_in_call import RowsInCall, WholeCall, running_rows

TOLERANCE = 1e-5
STEPS = 6
UPDATES = (0, 1, 3)  # reused are 2, 4 and 5
FAMILIES = ("flux", "sd3", "wan", "z-image")


class ByHand:
    """Calls the denoiser of a pipeline on chosen rows, at one step after the other.

    Row `i` has text and noise of its own, and other noise at every step.

    Attributes:
        arguments: of a call of the denoiser with all rows.
    """

    def __init__(self, family: str, num_rows: int = 4, **options: Any) -> None:
        self.pipe, call_kwargs = build(family)
        self.num_rows = num_rows
        self.denoiser = self.pipe.transformer
        self._family = family_of(self.denoiser)
        # Without guidance the rows of the pipeline are those of the denoiser.
        kwargs = call_kwargs(range(num_rows), guidance_scale=0.0, **options)
        self.arguments = _first_arguments(self.pipe, self.denoiser, kwargs)
        self.begin()

    def begin(self) -> None:
        """Begin a run."""
        self.pipe.scheduler.set_timesteps(STEPS)

    def run(self, step: int, *parts: Sequence[int]) -> dict[int, Tensor]:
        """The predictions for some rows, in one or several parts of a call; ends the step."""
        call = WholeCall(self.num_rows, self.num_rows)
        found: dict[int, Tensor] = {}
        for rows in parts:
            with running_rows(RowsInCall(call, tuple(rows))), torch.no_grad():
                output = self.denoiser(**self._chosen(step, rows), return_dict=False)[0]
            found |= dict(zip(rows, output, strict=True))
        scheduler, sample = self.pipe.scheduler, torch.zeros(1, 4, 2, 2)
        scheduler.step(sample, scheduler.timesteps[step], sample)
        return found

    def _chosen(self, step: int, rows: Sequence[int]) -> dict[str, Any]:
        family, chosen = self._family, dict(self.arguments)
        selection = RowSelection(rows)
        for name in chosen.keys() & {*family.rows, *family.row_list}:
            chosen[name] = select_rows(chosen[name], self.num_rows, selection, name)
        for name in chosen.keys() & {*family.nested}:
            chosen[name] = select_nested(chosen[name], self.num_rows, selection, name)
        latents = chosen[family.leading]
        later = [value + 0.3 * step * value.flip(-1) for value in latents]
        chosen[family.leading] = later if isinstance(latents, list) else torch.stack(later)
        return chosen


def _first_arguments(pipe: Any, denoiser: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    class Reached(Exception):
        pass

    def stop(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        raise Reached(bind_arguments(module, args, given))

    handle = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    with pytest.raises(Reached) as reached:
        final_latents(pipe, kwargs)
    handle.remove()
    (arguments,) = reached.value.args
    return {k: v for k, v in arguments.items() if k != "return_dict"}


def alone(
    family: str, variant: str, row: int, steps: Sequence[int], computed: Sequence[int]
) -> Any:
    """The predictions of a row by itself at `steps`, reused except at those `computed`.

    By patching modules, without any cache of ours.
    """
    hand = ByHand(family)
    places = [place for place, step in enumerate(steps) if step in computed]
    with reference(hand.pipe, variant, places, calls_per_step=1):
        return {step: hand.run(step, [row])[row] for step in steps}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_come_in_any_order_stay_away_and_come_back(family: str, variant: str) -> None:
    hand = ByHand(family)
    with cached(hand.pipe, config_of(variant, hand.pipe, UPDATES, STEPS)) as cache:
        per_row = units_reused(variant, hand.pipe)
        hand.begin()
        found = [
            hand.run(0, [0, 1, 2, 3]),
            hand.run(1, [3, 1, 0, 2]),
            hand.run(2, [2, 0], [3]),
            hand.run(3, [0, 2]),
            # Row 1 was away: neither it nor those in one batch with it are reused.
            hand.run(4, [2, 1], [0]),
            hand.run(5, [0, 1, 2]),
        ]
        report = cache.report()
    computed = {0: (0, 1, 3), 1: (0, 1, 4), 2: (0, 1, 3, 4), 3: (0, 1)}
    for row, own in computed.items():
        steps = [step for step in range(STEPS) if row in found[step]]
        expected = alone(family, variant, row, steps, own)
        for step in steps:
            assert relative_error(found[step][row], expected[step]) <= TOLERANCE, (row, step)
    assert report.refused == 2 * per_row
    assert report.reused == (3 + 1 + 3) * per_row
    assert report.computed == (4 + 4 + 2 + 2) * per_row


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_are_padded_to_the_longest_do_not_depend_on_it(variant: str) -> None:
    hand, parts = ByHand("z-image"), [[0, 1], [2, 3]]
    # Z-Image pads texts to multiples of 32 tokens, then all to the longest.
    hand.arguments["cap_feats"] = [
        text([row], length, 16)[0] for row, length in enumerate((20, 20, 40, 70))
    ]
    with cached(hand.pipe, config_of(variant, hand.pipe, UPDATES, STEPS)) as cache:
        hand.begin()
        found = [
            hand.run(0, *parts),
            hand.run(1, *parts),
            hand.run(2, [0], [1, 2, 3]),
            hand.run(3, [1, 2], [0, 3]),
            hand.run(4, [1, 2, 0]),
            hand.run(5, [0, 1]),
        ]
        assert cache.report().refused == 0
    for row in range(4):
        steps = [step for step in range(STEPS) if row in found[step]]
        by_hand = ByHand("z-image")
        by_hand.arguments = hand.arguments
        with reference(by_hand.pipe, variant, UPDATES, calls_per_step=1):
            for step in steps:
                expected = by_hand.run(step, [row])[row]
                assert relative_error(found[step][row], expected) <= TOLERANCE, (row, step)


@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_go_on_with_what_was_kept_of_their_parents(variant: str) -> None:
    hand = ByHand("flux")
    with cached(hand.pipe, config_of(variant, hand.pipe, UPDATES, STEPS)) as cache:
        hand.begin()
        for step in (0, 1):
            hand.run(step, range(4))
        cache.select({0: 2, 1: 1, 3: 2}, 4)
        found = hand.run(2, [0, 1, 3])
        assert cache.report().refused == 0
        hand.run(3, [0, 1, 3])
        # Row 2 has died; it comes back as a copy of row 3.
        cache.select({2: 3, 3: 3}, 4)
        revived = hand.run(4, [2, 3])
        assert cache.report().refused == 0
        # Row 0 is dead now, so there is nothing to go on from.
        hand.run(5, [0])
        assert cache.report().refused == units_reused(variant, hand.pipe)
    copies = [(2, 0, 2, found), (2, 1, 1, found), (2, 3, 2, found), (4, 2, 3, revived)]
    for step, row, parent, outputs in copies:
        by_hand = ByHand("flux")
        with reference(by_hand.pipe, variant, updates=(0,), calls_per_step=1):
            by_hand.run(step - 1, [parent])
            expected = by_hand.run(step, [row])[row]
        assert relative_error(outputs[row], expected) <= TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_begins_in_mid_schedule_has_nothing_to_go_on_from(variant: str) -> None:
    """As that of an image-to-image pipeline does; even if another was broken off there."""
    hand = ByHand("flux")
    expected = hand.run(2, range(4))
    with cached(hand.pipe, config_of(variant, hand.pipe, UPDATES, STEPS)) as cache:
        hand.begin()
        for step in (0, 1):
            hand.run(step, range(4))
        hand.begin()
        hand.pipe.scheduler.set_begin_index(2)
        found = hand.run(2, range(4))
        assert cache.report().reused == 0
        hand.run(3, range(4))
        hand.run(4, range(4))
        assert cache.report().reused == 4 * units_reused(variant, hand.pipe)
    for row in range(4):
        assert torch.equal(found[row], expected[row])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["flux", "sd3", "sana", "z-image"])
def test_a_size_that_changes_in_mid_run_is_not_mixed_with_the_former(
    family: str, variant: str
) -> None:
    hand = ByHand(family, 2)
    wide = ByHand(family, 2, width=2 * IMAGE_SIDE[family])
    expected = wide.run(2, [0, 1])
    with cached(hand.pipe, config_of(variant, hand.pipe, UPDATES, STEPS)) as cache:
        hand.begin()
        for step in (0, 1):
            hand.run(step, [0, 1])
        hand.arguments = wide.arguments
        found = hand.run(2, [0, 1])
        assert cache.report().reused == 0
    for row in range(2):
        assert torch.equal(found[row], expected[row])


@pytest.mark.parametrize("variant", VARIANTS)
def test_guidance_in_one_call_and_in_two_agree(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_toy(monkeypatch)
    cond, uncond = torch.tensor([1.0, 2.0]), torch.tensor([30.0, 40.0])
    found = []
    for texts in ([cond, uncond], [torch.cat([cond, uncond])]):
        pipe = toy_pipeline()
        # Latents come again after 7 numbers, as a pipeline repeats them for the second group.
        loop = Loop(pipe, (len(texts[0]), 7, 2, 2), STEPS)
        with cached(pipe, config_of(variant, pipe, UPDATES, STEPS)) as cache:
            found.append(loop.run(texts))
            assert cache.report().reused > 0 and cache.report().refused == 0
    for apart, (together,) in zip(*found, strict=True):
        assert torch.equal(together, torch.cat(apart))
        assert not torch.equal(apart[0], apart[1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_the_next_run_may_have_another_size(family: str, variant: str) -> None:
    sizes = [{"width": 32}, {"width": 64}, {"width": 32}]
    apart = []
    for size in sizes:
        pipe, call_kwargs = build(family)
        with cached(pipe, config_of(variant, pipe, UPDATES, STEPS)):
            apart.append(final_latents(pipe, call_kwargs([0, 1], **size)))
    assert apart[0].shape != apart[1].shape
    pipe, call_kwargs = build(family)
    with cached(pipe, config_of(variant, pipe, UPDATES, STEPS)) as cache:
        for size, expected in zip(sizes, apart, strict=True):
            assert torch.equal(final_latents(pipe, call_kwargs([0, 1], **size)), expected)
        assert cache.report().refused == 0
