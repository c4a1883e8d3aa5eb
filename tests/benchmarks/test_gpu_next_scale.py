"""Next-scale models in the GPU benchmark, on a tiny Infinity that draws the published scales."""

import json
import math

import pytest
import torch

from benchmarks import gpu, gpu_next_scale
from benchmarks.gpu_subject import Extent

OPTIONS = ["--tiny", "--device", "cpu", "--dtype", "float32"]
OPTIONS += ["--rounds", "1", "--sizes", "infinity"]
TOKENS = {"0.06M": 521, "0.25M": 2521, "1M": 10521}


def measured(folder, *options):
    gpu.main([*OPTIONS, *options, "--output", str(folder)])
    return json.loads(next(folder.glob("*.json")).read_text())["pipelines"]["infinity"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("gpu"), "--sections", "next_scale", "row_gate")


@pytest.fixture(params=gpu_next_scale.SIZES)
def size(request):
    return request.param


@pytest.fixture
def parts(size, found):
    return found["next_scale"][size]


def test_a_picture_is_drawn_by_the_engine_and_without_it(size, parts) -> None:
    found = parts["one_picture"]
    assert found["engine"]["tokens"] == 2 * TOKENS[size]
    assert found["engine"]["decodes"] == 1
    assert found["plain"]["tokens_per_second"] > 0
    assert found["plain"]["seconds_per_picture"] == found["plain"]["seconds"]
    assert 0 < found["engine_over_plain"]["ratio"] < math.inf


@pytest.mark.parametrize("count", gpu_next_scale.COUNTS)
def test_searches_do_the_planned_work(size, parts, count) -> None:
    found = parts[f"tts_var_{count}"]
    assert found["num_candidates"] == count
    assert found["tokens"] == found["planned_tokens"] > 2 * count * TOKENS[size]
    assert {"draw", "decode", "embed", "cluster", "reward", "gather"} == found[
        "seconds_by_part"
    ].keys()
    assert 0 < found["gather_over_all"]["ratio"] < 1


def test_the_published_schedule_costs_what_was_counted_by_hand(found) -> None:
    """Candidates that come out alike are decoded once, so there may be fewer decodes."""
    row = found["next_scale"]["1M"]["tts_var_1"]
    assert row["tokens"] / (2 * TOKENS["1M"]) == pytest.approx(1.3930, abs=1e-4)
    assert 21 - 6 <= row["decodes"] <= 21


def test_xformers_is_measured_or_its_absence_explained(parts) -> None:
    assert parts["attention"]["native"]["seconds_per_picture"] > 0
    xformers = parts["attention"]["xformers"]
    assert xformers.get("unusable") or xformers["seconds_per_picture"] > 0


def test_sections_about_steps_are_left_out(found) -> None:
    assert found["row_gate"] == {"skipped": gpu.NO_STEPS}


def test_what_the_time_limit_does_not_allow_is_left_out(tmp_path) -> None:
    found = measured(tmp_path, "--sections", "next_scale", "--time-limit-s", "0")["next_scale"]
    assert found.keys() == TOKENS.keys()
    for parts in found.values():
        assert parts.keys() == gpu_next_scale.ROUND_COSTS.keys()
        assert all("beyond the time limit" in part["skipped"] for part in parts.values())


def test_a_search_runs_in_bfloat16_too(tmp_path) -> None:
    options = [*OPTIONS[:3], "--sizes", "infinity", "--output", str(tmp_path)]
    subject = gpu.build("infinity", gpu.parse(options), tmp_path)
    assert subject.denoiser.dtype == subject.reward.dtype == torch.bfloat16
    row = gpu_next_scale.tts_var("0.06M", 1, subject, Extent(), 1, {})
    assert row["tokens"] == row["planned_tokens"]
