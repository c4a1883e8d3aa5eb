"""The GPU benchmark on tiny pipelines of the same classes; the full sizes without allocating."""

import json
import warnings
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_sections
from benchmarks.full_size import (
    FULL,
    TINY,
    build_denoiser,
    build_pipeline,
    build_reward,
    build_vae,
)
from benchmarks.gpu_budget import contenders, search_cost_of
from benchmarks.gpu_subject import SCHEDULES, Extent, Subject
from benchmarks.timing import Deadline, or_out_of_memory
from gensift.errors import DeviceError
from samplers.diffusion.schedule import UnitCosts

BUDGET, STEPS = 3, 6
OPTIONS = ["--tiny", "--device", "cpu", "--dtype", "float32", "--sdxl-size", "64", "--flux-size"]
OPTIONS += [
    "64",
    "--steps",
    str(STEPS),
    "--budget",
    str(BUDGET),
    "--candidates",
    "2",
    "--rounds",
    "2",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    gpu.main([*OPTIONS, "--output", str(folder)])
    assert (folder / "gpu.png").stat().st_size > 0
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture(params=["sdxl", "flux"])
def pipeline(request, found):
    return found["pipelines"][request.param]


def test_hardware_versions_and_extent_are_named(found) -> None:
    assert {"machine", "cpus"} <= found["hardware"].keys()
    assert {"torch", "diffusers"} <= found["versions"].keys()
    assert found["extent"] == {"rounds": 2, "budget": BUDGET, "candidates": 2}


def test_prices_are_given_in_both_units(pipeline) -> None:
    for costs in pipeline["prices"].values():
        assert min(costs["step"], costs["verdict"], costs["preview"]) > 0


def test_every_contender_does_the_planned_work_within_the_budget(pipeline) -> None:
    section = pipeline["equal_budget"]
    names = {(row["name"], unit) for row in section["rows"] for unit in row["equal_in"]}
    names |= {(name, u) for name, units in section["not_one_candidate_fits"].items() for u in units}
    assert names == {(name, unit) for name in SCHEDULES for unit in ("flops", "seconds")}
    for row in section["rows"]:
        assert row["nfe"] == row["planned_nfe"]
        for unit in row["equal_in"]:
            assert row["planned_cost"][unit] <= section["allowed_cost"][unit] * (1 + 1e-9)
        assert row["candidates_per_second"] > 0


def test_best_of_n_is_itself_at_its_own_budget(pipeline) -> None:
    best = pipeline["equal_budget"]["rows"][0]
    rows = 2 if pipeline["denoiser"] == "UNet2DConditionModel" else 1
    assert (best["name"], best["num_candidates"]) == ("best-of-n", BUDGET)
    assert best["nfe"] == STEPS * BUDGET * rows
    assert (best["decodes"], best["preview_decodes"]) == (BUDGET + 1, 0)
    assert best["candidates_per_second_over_best_of_n"]["ratio"] == 1.0


def test_micro_batches_run_up_to_the_whole_batch(pipeline) -> None:
    whole = 4 if pipeline["denoiser"] == "UNet2DConditionModel" else 2
    limits = [row["max_rows"] for row in pipeline["micro_batches"]["rows"]]
    assert limits[0] == 1 and limits[-1] == whole
    assert all(after == 2 * before for before, after in pairwise(limits))


def test_xformers_is_measured_or_its_absence_explained(pipeline) -> None:
    assert pipeline["attention"]["native"]["seconds_per_step"] > 0
    xformers = pipeline["attention"]["xformers"]
    assert xformers.get("unusable") or xformers["seconds_per_step"] > 0


def test_the_winner_equals_its_seed_alone(pipeline) -> None:
    found = pipeline["survivors"]
    assert found["alone_again_vs_alone"]["max_latent"] == 0
    assert found["winner_vs_alone"]["max_pixel"] < 1e-4


def test_the_row_gate_is_compared_with_the_plain_call(pipeline) -> None:
    assert pipeline["row_gate"]["keep_all_over_plain"]["pairs"] == 2


def test_bfloat16_runs_too(tmp_path) -> None:
    options = [*OPTIONS, "--sizes", "flux", "--rounds", "1", "--dtype", "bfloat16", "--steps", "4"]
    gpu.main([*options, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())["pipelines"]
    assert list(found) == ["flux"] and found["flux"]["dtype"] == "bfloat16"


def test_what_the_time_limit_does_not_allow_is_left_out(tmp_path, monkeypatch) -> None:
    costs = UnitCosts(step=1.0, scoring=1.0)
    monkeypatch.setattr(gpu.budget, "unit_costs", lambda *_: {"flops": costs, "seconds": costs})
    gpu.main([*OPTIONS, "--sizes", "flux", "--output", str(tmp_path), "--time-limit-s", "0"])
    found = json.loads((tmp_path / "gpu.json").read_text())["pipelines"]["flux"]
    assert found.pop("next_scale") == {"skipped": gpu.NO_SCALES}
    parts = [found[name] for name in gpu.SECTIONS if name in found and name != "caches"]
    parts += found["caches"].values()
    assert len(parts) == 8
    assert all("beyond the time limit" in part["skipped"] for part in parts)


def test_rounds_are_cut_to_the_time_limit() -> None:
    deadline = Deadline(100)
    assert deadline.affordable(3, 1) == 3
    assert deadline.affordable(3, 20) == 2
    assert deadline.affordable(3, 80) == 1
    assert deadline.affordable(3, 120) == 0


def test_running_out_of_memory_is_a_finding(monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert or_out_of_memory(fail) == {"out_of_memory": "CUDA out of memory"}


@pytest.mark.parametrize("options", [["--tiny"], ["--device", "cpu"]])
def test_no_tiny_or_cpu_figure_is_published(options, capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.parse(options)
    assert "--output" in capsys.readouterr().err


def test_the_default_is_all_of_the_pictures(tmp_path) -> None:
    arguments = gpu.parse(["--device", "cpu", "--output", str(tmp_path)])
    assert arguments.sizes == ["sdxl", "flux"]
    assert arguments.sections == list(gpu.SECTIONS)
    assert arguments.name == "gpu"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--sections", "caches"], "gpu-caches"),
        (["--sections", "row_gate", "caches"], "gpu-row_gate-caches"),
        (["--sections", "caches", "--name", "wan"], "wan"),
    ],
)
def test_chosen_sections_do_not_replace_the_figures_of_all(tmp_path, options, name) -> None:
    common = ["--device", "cpu", "--output", str(tmp_path)]
    assert gpu.parse([*common, *options]).name == name


@pytest.mark.parametrize("frames", ["0", "80", "85"])
def test_videos_have_one_more_than_a_multiple_of_four_frames(frames, capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.parse(["--device", "cpu", "--output", "folder", "--wan-frames", frames])
    assert "--wan-frames" in capsys.readouterr().err


def test_quick_measures_less_and_single_options_go_before_it(tmp_path) -> None:
    common = ["--device", "cpu", "--output", str(tmp_path), "--quick"]
    assert gpu.extent_of(gpu.parse(common)) == gpu.QUICK
    assert gpu.extent_of(gpu.parse([*common, "--rounds", "5"])).rounds == 5


def test_a_free_verdict_lets_pruning_consider_more_candidates() -> None:
    costs = {
        "flops": UnitCosts(step=1.0),
        "seconds": UnitCosts(step=1.0, scoring=0.1, preview=0.01),
    }
    chosen = contenders(costs, 10, 20)
    for (name, count), units in chosen.items():
        assert count > 10 or name == "best-of-n"
        for unit in units:
            allowed = search_cost_of("best-of-n", 10, 20, costs)[unit]
            assert search_cost_of(name, count, 20, costs)[unit] <= allowed
            assert search_cost_of(name, count + 1, 20, costs)[unit] > allowed


def test_a_search_too_dear_for_one_candidate_is_left_out() -> None:
    costs = {"flops": UnitCosts(step=1.0, scoring=100.0, preview=100.0)}
    assert contenders(costs, 1, 20)["ttsnap, clean schedule", 0] == ["flops"]
    assert contenders(costs, 1, 20)["best-of-n", 1] == ["flops"]


@pytest.mark.parametrize(
    ("name", "millions"), [("sdxl", 2567), ("flux", 11901), ("wan", 1419), ("infinity", 2205)]
)
def test_the_denoiser_is_of_full_size(name, millions) -> None:
    with torch.device("meta"):
        denoiser = build_denoiser(name, FULL[name])
    assert _millions(denoiser) == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "millions"), [("sdxl", 83.65), ("flux", 83.82), ("wan", 126.9), ("infinity", 110.1)]
)
def test_the_vae_is_of_full_size(name, millions) -> None:
    with torch.device("meta"):
        vae = build_vae(name, FULL[name])
    assert _millions(vae) == pytest.approx(millions, rel=0.001)


def test_tiny_pipelines_have_the_same_parts() -> None:
    assert TINY.keys() == FULL.keys()
    for name, tiny in TINY.items():
        assert tiny.denoiser.keys() >= FULL[name].denoiser.keys()
        assert len(tiny.clips) == len(FULL[name].clips)


@pytest.fixture
def subject():
    with torch.device("meta"):
        transformer = build_denoiser("flux", TINY["flux"])
    return Subject(
        name="flux",
        pipe=SimpleNamespace(transformer=transformer),
        reward=None,
        preview_decoder="",
        arguments={"num_inference_steps": 20},
        device="cpu",
    )


def test_sections_are_estimated(subject) -> None:
    costs = {"flops": UnitCosts(step=1.0), "seconds": UnitCosts(step=0.1)}
    extent = Extent(budget=10, candidates=16)
    estimate = gpu_sections.seconds_per_round("row_gate", subject, extent, costs)
    assert estimate == pytest.approx(2 * 16 * 20 * 0.1)
    whole = 10 * 20 * 0.1
    estimate = gpu_sections.seconds_per_round("equal_budget", subject, extent, costs)
    # Three contenders that each nearly spend the budget, and four steps of warm-up.
    assert 2.8 * whole < estimate <= 3 * whole * 1.2


def test_a_gate_that_halved_its_batch_counts_as_out_of_memory(subject, monkeypatch) -> None:
    def halve(*args, **kwargs):
        warnings.warn("Out of memory with 8 denoiser rows; going on", RuntimeWarning, stacklevel=1)

    def fail(*args, **kwargs):
        raise DeviceError("Out of memory with a single row")

    for run in (halve, fail):
        monkeypatch.setattr(Subject, "keep_all", run)
        assert str(gpu_sections._limited(subject, 8, 8)).startswith("Out of memory with")


@pytest.mark.parametrize("name", list(FULL))
def test_all_parts_are_made_in_the_wanted_type_and_place(name) -> None:
    pipe = build_pipeline(name, FULL[name], "meta", torch.bfloat16)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    reward = build_reward(None, "meta", torch.bfloat16)
    for module in [*modules, reward.model]:
        kinds = {(p.device.type, p.dtype) for p in module.parameters()}
        assert kinds == {("meta", torch.bfloat16)}
    assert torch.get_default_dtype() == torch.float32
    assert _millions(reward.model) == pytest.approx(427.6, rel=0.001)


def _millions(module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
