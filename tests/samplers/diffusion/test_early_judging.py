"""Searches that look at early estimates by tiny decoders and noise-aware rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers.searches import PROMPT, TOLERANCE, contrast, redness
from helpers.speaking_pipelines import SIZE, speaking
from torch import Tensor

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.errors import ConfigError
from rewards.combine import CompositeReward
from rewards.protocol import scorer_at
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.preview import Previewer
from samplers.diffusion.ttsnap import TTSnap

bound = BoundPipeline.of

STEPS = 10
CALL = {**SIZE, "num_inference_steps": STEPS}
EARLY = {"checkpoints": (0.2, 0.5), "keep": (0.5, 0.5)}


class Aware:
    """Likes contrast in what is finished, and the lack of it in early estimates."""

    name = "aware"

    def __init__(self) -> None:
        self.asked: list[float | None] = []

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        self.asked.append(None)
        return contrast(images, prompts)

    def at_sigma(self, sigma: float) -> Callable[..., Tensor]:
        def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
            self.asked.append(sigma)
            return sigma - contrast(images, prompts)

        return score


def events_of(pipe: Any, search: TTSnap, **call: Any) -> tuple[list[StepEvent], Any]:
    events: list[StepEvent] = []
    with observe_scheduler(pipe.scheduler, events.append):
        output = search(pipe, PROMPT, output_type="pt", **CALL, **call)
    return events, output


# ----------------------------------------------------------------------- noise-aware rewards


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("flux", "flow-euler"),
        ("sdxl", "euler"),
        ("sdxl", "euler-ancestral"),
        ("sdxl", "dpm++"),
        ("sd15", "ddim"),
        ("sd15", "pndm"),
    ],
)
@pytest.mark.parametrize("max_rows", [None, 3])
def test_it_is_asked_with_the_noise_level_of_each_checkpoint_and_plainly_at_the_end(
    family: str, scheduler: str, max_rows: int | None
) -> None:
    reward, pipe = Aware(), speaking(family, scheduler)
    search = TTSnap(reward, num_candidates=6, max_rows=max_rows, **EARLY)
    output = search(pipe, PROMPT, **CALL)
    (trace,) = output.trace.prompts
    steps = [stage.step_index for stage in trace.stages]
    assert steps[:2] == ([2, 6] if scheduler == "pndm" else [2, 5])
    asked = list(dict.fromkeys(reward.asked))
    assert asked == [*(pytest.approx(share(pipe, step)) for step in steps[:2]), None]
    assert asked[0] > asked[1] > 0  # type: ignore[operator]
    counts = [reward.asked.count(sigma) for sigma in asked]
    rows = [len(stage.alive) for stage in trace.stages]
    assert counts == [-(-alive // (max_rows or alive)) for alive in rows]


def share(pipe: Any, step: int) -> float:
    """Share of noise in the input of a step, by the scheduler's tables."""
    scheduler = pipe.scheduler
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step])
        return sigma if type(scheduler).__name__.startswith("Flow") else sigma / (1 + sigma)
    alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[step])])
    return (1 - alpha) ** 0.5 / (alpha**0.5 + (1 - alpha) ** 0.5)


def test_its_early_scores_prune_and_its_plain_ones_choose() -> None:
    pipe = speaking("flux")
    events, output = events_of(pipe, TTSnap(Aware(), num_candidates=8, **EARLY))
    (trace,) = output.trace.prompts
    previewer = Previewer(bound(pipe), 16, 16)
    for stage in trace.stages[:-1]:
        event = events[stage.step_index]
        seen = contrast(previewer.decode(event.pred_original_sample), [])[list(stage.alive)]
        expected = event.flow_sigma - seen
        assert stage.scores["aware"] == pytest.approx(expected.tolist(), abs=TOLERANCE)
        dull = sorted(range(len(seen)), key=lambda place, s=seen: float(s[place]))  # type: ignore[misc]
        assert set(stage.kept) == {stage.alive[place] for place in dull[: len(stage.kept)]}
    finished = trace.stages[-1]
    best = max(range(len(finished.alive)), key=lambda place: finished.combined[place])
    assert trace.winner == finished.alive[best]
    found = contrast(output.results[0].samples, [])
    assert output.rewards[0] == pytest.approx(float(found[0]), abs=TOLERANCE)


def test_plain_rewards_are_their_own_scorers_at_any_noise() -> None:
    assert scorer_at(contrast, 0.5) is contrast
    reward = Aware()
    assert scorer_at(reward, None) is reward
    assert scorer_at(reward, 0.0) is not reward  # zero is a noise level, not "finished"


CLEAN, EAGER = [6, 8, 12], [5, 8]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (contrast, CLEAN),
        (Aware(), EAGER),
        ({"a": Aware(), "b": Aware()}, EAGER),
        ({"a": Aware(), "b": contrast}, CLEAN),
        (CompositeReward({"a": Aware(), "b": Aware()}), EAGER),
        (CompositeReward({"a": Aware(), "b": redness}), CLEAN),
        (None, CLEAN),
    ],
)
def test_the_default_schedule_depends_on_what_the_rewards_know(
    reward: Any, expected: list[int]
) -> None:
    points = TTSnap(reward).checkpoints(20)
    assert [point.step_index for point in points] == expected
    ratios = [0.65, 0.65, 0.5] if expected is CLEAN else [0.4, 0.6]
    assert [point.keep for point in points] == ratios


@pytest.mark.parametrize("reward", [contrast, Aware()])
def test_a_given_schedule_is_taken_as_it_is(reward: Any) -> None:
    points = TTSnap(reward, **EARLY).checkpoints(20)
    assert [(p.step_index, p.keep) for p in points] == [(4, 0.5), (10, 0.5)]
    assert TTSnap(reward, checkpoints=(), keep=()).checkpoints(20) == ()


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoints": (0.2, 0.5)},
        {"keep": (0.5,)},
        {"keep": (0.65, 0.65, 0.5)},
        {"checkpoints": ()},
        {"keep": ()},
    ],
)
def test_half_a_schedule_is_never_completed_by_the_default(options: dict[str, Any]) -> None:
    try:
        search = TTSnap(contrast, **options)
    except ConfigError:
        return
    assert search.checkpoints(20) == ()


@pytest.mark.parametrize("count", [1, 5])
def test_a_noise_aware_search_costs_what_was_planned(count: int) -> None:
    pipe, search = speaking("flux"), TTSnap(Aware(), num_candidates=count)
    planned = search.plan(pipe, 2, **CALL)
    output = search(pipe, ["a", "b"], **CALL)
    assert output.cost.difference(planned.cost) == {}


# --------------------------------------------------------------------------- tiny decoders


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["flux", "sd15", "sdxl"])
def test_early_looks_are_the_decoders_and_the_last_one_the_vaes(family: str, decoder: str) -> None:
    pipe = speaking(family)
    search = TTSnap(contrast, num_candidates=6, preview_decoder=decoder, **EARLY)
    events, output = events_of(pipe, search)
    (trace,) = output.trace.prompts
    tiny = diffusers.AutoencoderTiny.from_pretrained(decoder).eval()
    for stage in trace.stages:
        event = events[stage.step_index]
        latents = event.latents if stage.is_final else event.pred_original_sample
        previewer = Previewer(bound(pipe), 16, 16, decoder=None if stage.is_final else tiny)
        expected = contrast(previewer.decode(latents), [])[list(stage.alive)].tolist()
        assert stage.scores["contrast"] == pytest.approx(expected, abs=TOLERANCE)
        if not stage.is_final:
            by_vae = contrast(Previewer(bound(pipe), 16, 16).decode(latents), [])[list(stage.alive)]
            assert stage.scores["contrast"] != pytest.approx(by_vae.tolist(), abs=1e-3)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_decodes_are_counted_apart_and_as_planned(family: str, outputs: int, decoder: str) -> None:
    pipe, counts = speaking(family), [6, 3, 2]
    options = {"num_candidates": 6, "num_outputs": outputs, **EARLY}
    search = TTSnap(contrast, preview_decoder=decoder, **options)
    planned = search.plan(pipe, 2, **CALL)
    output = search(pipe, ["a", "b"], **CALL)
    assert output.cost.difference(planned.cost) == {}
    assert [len(stage.alive) for stage in output.trace.prompts[0].stages] == counts
    assert output.cost.preview_decodes == 2 * (6 + 3)
    assert output.cost.decodes == 2 * (2 + outputs)
    plain = TTSnap(contrast, preview_decoder="vae", **options).plan(pipe, 2, **CALL)
    assert plain.cost.preview_decodes == 0
    assert plain.cost.decodes == output.cost.decodes + output.cost.preview_decodes
    assert plain.cost.reward_calls == output.cost.reward_calls == {"contrast": 2 * sum(counts)}


def test_without_checkpoints_or_rewards_a_decoder_has_nothing_to_do(decoder: str) -> None:
    pipe = speaking("flux")
    for reward, schedule in ((contrast, {"checkpoints": (), "keep": ()}), (None, EARLY)):
        search = TTSnap(reward, num_candidates=3, preview_decoder=decoder, **schedule)
        planned = search.plan(pipe, 1, **CALL)
        output = search(pipe, PROMPT, **CALL)
        assert output.cost.difference(planned.cost) == {}
        assert output.cost.preview_decodes == 0


def test_the_vae_is_what_judges_where_no_decoder_is_known() -> None:
    found, expected = (
        TTSnap(contrast, num_candidates=6, preview_decoder=spec, **EARLY)(
            speaking("flux"), PROMPT, output_type="pt", **CALL
        )
        for spec in ("auto", "vae")
    )
    assert found.trace == expected.trace
    assert torch.equal(found.results[0].samples, expected.results[0].samples)
    assert found.cost.difference(expected.cost) == {}


def test_keeping_all_by_a_tiny_decoder_and_an_aware_reward_is_best_of_n_bit_for_bit(
    decoder: str,
) -> None:
    pipe = speaking("flux")
    keep_all = TTSnap(
        Aware(),
        num_candidates=6,
        checkpoints=(0.3, 0.5),
        keep=(1.0, 1.0),
        num_outputs=6,
        preview_decoder=decoder,
    )
    best_of_n = BestOfN(Aware(), num_candidates=6, num_outputs=6)
    found, expected = (s(pipe, PROMPT, output_type="pt", **CALL) for s in (keep_all, best_of_n))
    assert found.seeds == expected.seeds
    assert found.rewards == expected.rewards
    assert torch.equal(found.results[0].samples, expected.results[0].samples)


@pytest.mark.parametrize("max_rows", [1, 4])
def test_micro_batches_change_no_choice(max_rows: int, decoder: str) -> None:
    options = {"num_candidates": 7, "preview_decoder": decoder, **EARLY}
    whole, small = (
        TTSnap(Aware(), max_rows=rows, **options)(speaking("flux"), PROMPT, **CALL)
        for rows in (None, max_rows)
    )
    ours, theirs = (o.trace.prompts[0].stages for o in (whole, small))
    assert [stage.kept for stage in ours] == [stage.kept for stage in theirs]
    assert small.seeds == whole.seeds
    assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}


def test_a_decoder_of_other_latents_is_refused_before_anything_runs(tmp_path: Path) -> None:
    diffusers.AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path)
    pipe = speaking("flux")
    before = dict(vars(pipe.scheduler))
    search = TTSnap(contrast, num_candidates=4, preview_decoder=str(tmp_path), **EARLY)
    for run in (search, search.plan):
        with pytest.raises(ConfigError, match="16 channels, those of FluxPipeline have 4"):
            run(pipe, [PROMPT], **CALL)
    assert vars(pipe.scheduler).keys() == before.keys()
    assert not getattr(pipe.transformer, "_diffusers_hook", None) or not list(
        pipe.transformer._diffusers_hook.hooks
    )
