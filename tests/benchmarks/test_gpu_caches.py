"""The caches of the GPU benchmark on tiny pipelines: figures, known answers, what does not fit."""

import json
import math
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch

from benchmarks import cached_runs, gpu
from benchmarks.cache_contenders import (
    CacheContender,
    dual_block_cache,
    first_block_cache,
    taylor_seer,
)
from benchmarks.cached_runs import UNCACHED, CachedRun, attempt, compared, near_twice, row_of, run
from benchmarks.full_size import TINY, build_pipeline
from benchmarks.gpu_caches import HandMade, our_caches, rows_of
from benchmarks.gpu_subject import Extent, Subject
from gensift.denoising.modules import hooks_on

ROUNDS, STEPS, PICTURES, SIDE = 2, 6, 2, 64
OPTIONS = f"--tiny --device cpu --dtype float32 --steps {STEPS} --rounds {ROUNDS}".split()
OPTIONS += f"--candidates {PICTURES} --sdxl-size {SIDE} --flux-size {SIDE}".split()
OTHERS = {
    "FirstBlockCache",
    "MagCache",
    "TaylorSeer",
    "pyramid attention broadcast",
    "cache-dit DBCache",
}


def measured(folder, *options):
    gpu.main([*OPTIONS, *options, "--output", str(folder)])
    return json.loads(next(folder.glob("*.json")).read_text())["pipelines"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    options = ["--sizes", "sdxl", "flux", "wan", "--sections", "caches"]
    return measured(tmp_path_factory.mktemp("caches"), *options)


@pytest.fixture(params=["sdxl", "flux", "wan"])
def name(request):
    return request.param


@pytest.fixture
def caches(name, pipelines):
    return pipelines[name]["caches"]


def working(rows):
    return [row for row in rows if "failed" not in row]


def test_ratios_are_finite_and_come_from_every_round(name, caches) -> None:
    for part in caches.values():
        assert part["rounds"] == ROUNDS
        assert part["rows"] == (1 if name == "wan" else PICTURES)
        assert part["uncached"]["denoiser_seconds"] > 0
        for row in working(part["contenders"]):
            assert row["speedup"]["pairs"] == ROUNDS
            assert 0 < row["speedup"]["ratio"] < math.inf
            assert row["peak_memory_mib"] is None  # on a CPU


def test_all_of_ours_are_there_and_skip_as_planned(name, caches) -> None:
    rows = caches["speedup"]["contenders"]
    assert [(row["method"], row["setting"]) for row in rows] == [
        (method, f"{setting}, every {every}")
        for every in (2, 3)
        for method, setting in (
            ("ERTACache", "increment"),
            ("ERTACache", "body"),
            ("BAC", "all sub-blocks"),
        )
    ]
    # The blocks of a UNet differ in shape, so that nothing stands for all of them.
    failed = [row for row in rows if "failed" in row]
    assert {row["setting"].split(",")[0] for row in failed} == (
        {"body"} if name == "sdxl" else set()
    )
    assert all("no body of blocks" in row["failed"] for row in failed)
    for row in working(rows):
        share = 1 / 2 if row["setting"].endswith("2") else 2 / 3
        assert row["skipped_share"] == pytest.approx(share)
        assert row["reused_share"] == pytest.approx(share)
        assert row["refused_rows"] == 0


def test_the_ideal_follows_from_the_shares_of_time(caches) -> None:
    found = caches["speedup"]
    shares = found["time_shares"]
    assert 0 < shares["units"] < 1
    assert sum(shares["units_by_kind"].values()) == pytest.approx(shares["units"])
    if shares["blocks"] is not None:
        assert shares["units"] < shares["blocks"] < 1
    for row in working(found["contenders"]):
        reused = {"i": 1.0, "b": shares["blocks"], "a": shares["units"]}[row["setting"][0]]
        ideal = 1 / (1 - reused * row["skipped_share"])
        assert row["time_share"] == reused
        assert row["ideal_speedup"] == pytest.approx(ideal)
        assert row["of_ideal"] == pytest.approx(row["speedup"]["ratio"] / ideal)
        assert row["is_accepted"] == (row["of_ideal"] >= 0.95)


@pytest.mark.parametrize(("every", "ideal"), [(2, 2.0), (3, 3.0)])
def test_whole_evaluations_have_a_known_ideal(caches, every, ideal) -> None:
    rows = caches["speedup"]["contenders"]
    row = next(row for row in rows if row["setting"] == f"increment, every {every}")
    assert row["ideal_speedup"] == pytest.approx(ideal)


def test_the_ideal_of_a_part_of_the_time() -> None:
    assert HandMade(UNCACHED, 1 / 2, 1.0).ideal == 2.0
    assert HandMade(UNCACHED, 2 / 3, 0.75).ideal == pytest.approx(2.0)
    assert HandMade(UNCACHED, 0.0, 0.75).ideal == 1.0


FLOAT, CALLS, WIDTH = 4, 2, 24
TOKENS = 3 * (4 // 2) * (6 // 2)
HELD_BY_WAN = {
    # Nine frames of 32 x 48 pixels are latents of 16 channels, 3 frames and 4 x 6; guidance makes
    # two calls per step, each of which keeps its own.
    "increment": CALLS * 16 * 3 * 4 * 6 * FLOAT,
    "body": CALLS * TOKENS * WIDTH * FLOAT,
    # Three blocks of two attentions and one feed-forward.
    "all sub-blocks": CALLS * 3 * 3 * TOKENS * WIDTH * FLOAT,
}
HELD_BY_FLUX = {
    # 16 tokens of picture of 64 channels, in the blocks 32, and 16 of text.
    "increment": PICTURES * 16 * 64 * FLOAT,
    "body": PICTURES * 16 * 32 * FLOAT,
    # One double block: attention and feed-forward of both; two single ones of all tokens.
    "all sub-blocks": PICTURES * (2 * 16 + 2 * 16 + 2 * 32) * 32 * FLOAT,
}


@pytest.mark.parametrize(("of", "held"), [("wan", HELD_BY_WAN), ("flux", HELD_BY_FLUX)])
def test_the_bytes_held_are_those_counted_by_hand(pipelines, of, held) -> None:
    for row in pipelines[of]["caches"]["speedup"]["contenders"]:
        assert row["num_bytes"] == held[row["setting"].split(",")[0]]


def test_the_overhead_is_that_of_caches_that_skip_nothing(name, caches) -> None:
    rows = working(caches["overhead"]["contenders"])
    assert len(rows) == (2 if name == "sdxl" else 3)
    for row in rows:
        assert row["setting"].endswith("every 1")
        assert 0 < row["over_uncached"]["ratio"] < math.inf
        assert row["is_accepted"] == (row["over_uncached"]["ratio"] <= 1.01)


def test_other_caches_are_measured_where_they_apply(name, caches) -> None:
    rows = caches["others"]["contenders"]
    assert {row["method"] for row in rows} == OTHERS
    failed = {row["method"]: row["failed"] for row in rows if "failed" in row}
    if name == "sdxl":
        assert set(failed) == OTHERS
        return
    absent = {} if find_spec("cache_dit") else {"cache-dit DBCache": "ModuleNotFoundError"}
    assert {method: why.split(":")[0] for method, why in failed.items()} == absent


def test_videos_have_caches_only(tmp_path) -> None:
    options = ["--sizes", "wan", "--wan-frames", "5", "--time-limit-s", "0"]
    found = measured(tmp_path, *options)["wan"]
    assert found["arguments"]["num_frames"] == 5
    assert found["prices"].keys() == {"seconds"}
    for section, reason in gpu.NOT_OF_VIDEOS.items():
        assert found[section] == {"skipped": reason}
    assert gpu.NOT_OF_VIDEOS.keys() | {"caches"} == gpu.SECTIONS.keys()


@pytest.fixture
def subject():
    return Subject(
        name="flux",
        pipe=build_pipeline("flux", TINY["flux"], "cpu", torch.float32),
        reward=None,
        preview_decoder="vae",
        arguments={"height": 32, "width": 32, "num_inference_steps": 4, **TINY["flux"].arguments},
        device="cpu",
    )


def test_many_candidates_are_not_drawn_at_once(subject) -> None:
    assert [rows_of(subject, Extent(candidates=count)) for count in (2, 16)] == [2, 4]


def test_runs_leave_the_pipeline_as_it_was(subject) -> None:
    before = subject.plain([3])
    for contender, _ in our_caches(subject, 2):
        found = run(subject, 1, contender)
        assert found.num_bytes > 0 and found.report.reused > 0
    for contender in (taylor_seer(2, 1, False), first_block_cache(0.5)):
        assert isinstance(attempt(subject, 1, contender), CachedRun)
    assert torch.equal(subject.plain([3]), before)
    assert not any(hooks_on(module) for module in subject.denoiser.modules())
    assert "forward" not in vars(subject.denoiser)


def test_cache_dit_leaves_the_pipeline_as_it_was(subject) -> None:
    pytest.importorskip("cache_dit")
    before, own = subject.plain([3]), set(vars(subject.denoiser))
    parts = [name for name, _ in subject.denoiser.named_modules()]
    assert isinstance(attempt(subject, 1, dual_block_cache(4, 0.5)), CachedRun)
    assert set(vars(subject.denoiser)) == own
    assert [name for name, _ in subject.denoiser.named_modules()] == parts
    assert isinstance(attempt(subject, 1, first_block_cache(0.5)), CachedRun)
    assert torch.equal(subject.plain([3]), before)


@contextmanager
def _refuse(pipe):
    raise ValueError("no\nblocks")
    yield


def test_a_cache_that_does_not_fit_is_a_finding_and_the_rest_goes_on(subject) -> None:
    broken = CacheContender("broken", "as it is", _refuse)
    fine, _ = our_caches(subject, 2)[0]
    timings = compared(subject, 1, 2, [broken, fine])
    row = row_of(broken, timings)
    assert row == {"method": "broken", "setting": "as it is", "failed": "ValueError: no blocks"}
    assert row_of(fine, timings)["speedup"]["pairs"] == 2


@pytest.mark.parametrize("exact", [0.02, 0.5, 1.7])
def test_thresholds_are_searched_for(subject, monkeypatch, exact) -> None:
    def speed(subject, count, contender):
        # Twice as fast at `exact`, in smooth dependence.
        return CachedRun(0.5 * (exact / float(contender.setting)) ** 0.2)

    def make(limit):
        return CacheContender("some", str(limit), UNCACHED.switch)

    monkeypatch.setattr(cached_runs, "attempt", speed)
    setting = near_twice(subject, 1, 1.0, make).setting
    limit = float(setting.removesuffix(", searched for"))
    assert 2 * (limit / exact) ** 0.2 == pytest.approx(2, rel=0.1)


def test_a_search_ends_where_a_cache_does_not_work(subject) -> None:
    found = near_twice(subject, 1, 1.0, lambda limit: CacheContender("broken", "", _refuse))
    assert found.setting == ""
