"""The tuner's promises: means by hand, advice by perfect scores, replays that find the winners."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gensift
from apps.training.zoo.noise_aware_evaluation import RECORDING, record_held_out_prompts
from benchmarks.contenders import Contender, run_once
from benchmarks.ttsnap_offline import BUDGETS
from benchmarks.ttsnap_tuner import advised, promised_and_kept, replayed
from gensift.zoo.shapes.geneval import prompts_of
from samplers.diffusion.schedule import Checkpoint, UnitCosts
from samplers.tuning.pool import best_of_n_curve
from samplers.tuning.recordings import ScoreTensors
from samplers.tuning.scored_recording import scored
from samplers.tuning.search import TuneConfig, tune


def test_the_means_of_splits_by_hand() -> None:
    splits = [
        {"best_of_n": 4, "prunes": True, "predicted_gain": 0.2, "held_out_gain": 0.1},
        {"best_of_n": 10, "prunes": False},
        {"best_of_n": 4, "prunes": True, "predicted_gain": 0.4, "held_out_gain": 0.5},
        {"best_of_n": 10, "prunes": False},
    ]
    first, second = promised_and_kept(splits)
    assert first.pop("predicted_gain") == pytest.approx(0.3)
    assert first.pop("held_out_gain") == pytest.approx(0.3)
    assert first == {"best_of_n": 4, "recommendations": 2}
    assert second == {"best_of_n": 10, "recommendations": 0}


@pytest.mark.parametrize("is_perfect", [True, False])
def test_advice_is_worth_more_than_best_of_n_where_early_scores_tell_something(
    is_perfect: bool,
) -> None:
    rng = np.random.default_rng(0)
    final = rng.normal(size=(40, 64))
    early = np.repeat(final[:, :, None], 20, axis=2)
    scores = ScoreTensors.single(early if is_perfect else rng.normal(size=early.shape), final)
    pool = best_of_n_curve(final).mean(0)
    rows = advised(scores, UnitCosts(step=1.0, scoring=3.0, preview=0.5), pool)
    assert [row["budget"] for row in rows] == list(BUDGETS)
    for row in rows:
        assert row["best_of_n"] == row["budget"]
        if is_perfect:
            assert row["ratio"] > 1.5 and row["num_candidates"] > row["budget"]
        else:
            assert row["ratio"] == pytest.approx(1) and "checkpoints" not in row


def test_a_replayed_search_finds_the_winners_that_the_simulation_names(tmp_path: Path) -> None:
    config = replace(RECORDING, num_images=12)
    recording = record_held_out_prompts(tmp_path, per_category=1, config=config)
    reward, pipe = gensift.load_reward("shapes-clip"), gensift.load_pipeline("shapes-flux")
    scores = scored(recording, reward)
    dear = UnitCosts(step=1.0, scoring=3.0, preview=0.5)
    found = tune(scores, dear, TuneConfig(budget=4 * 23.0))
    found = replace(found, checkpoints=(Checkpoint(9, 0.4),), num_candidates=7)
    row = replayed(pipe, reward, recording, scores, found)
    assert row["searches"] == len(recording.prompts) == 6
    # 8 bits of a recording's pictures may tip a near tie, no more.
    assert row["same_winner"] >= 5 / 6
    assert abs(row["online_minus_simulated"]) < 0.01
    # Not so by chance: the first candidate seldom wins.
    assert len(set(scores.values().argmax(axis=1))) > 1


def test_runs_by_other_weights_are_not_taken_for_ours(tmp_path: Path) -> None:
    pipe, meanings = gensift.load_pipeline("shapes-flux"), prompts_of("single", 1)
    contender = Contender("best-of-n", "best-of-n", "plain", steps=2)
    plain = gensift.load_reward("shapes-clip", noise_aware=False)
    for reward, files in ((plain, 1), (plain, 1), (gensift.load_reward("shapes-clip"), 2)):
        run_once(tmp_path, contender, 2, pipe, {"plain": reward}, meanings, [0])
        assert len(list(tmp_path.iterdir())) == files
