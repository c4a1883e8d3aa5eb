"""Blockwise flow matching in the GPU benchmark, on tiny models."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_bfm
from benchmarks.flow_models import SIZES, random_blockwise, random_dense, random_transformer
from gensift.pipelines.bfm.macs import bfm_macs, sit_macs
from gensift.pipelines.bfm.residency import SegmentResidency
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

OPTIONS = ["--tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "2", "--sizes", "bfm"]
TINY = SIZES["tiny"]
SEGMENTS, STEPS = 3, 6
FAST = ("frn", "hold")
KINDS = {"full", "frn", "hold", "sit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    gpu.main([*OPTIONS, "--output", str(folder), "--name", "gpu-bfm"])
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "gpu-bfm.json").read_text())["pipelines"]["bfm"]


@pytest.fixture(scope="module")
def blockwise():
    return random_blockwise(TINY, "cpu", torch.float32)


@pytest.fixture(scope="module")
def dense():
    return random_dense(TINY, "cpu", torch.float32)


@pytest.fixture(params=["1", "2"])
def batch(request):
    return request.param


def test_the_full_size_is_the_published_one() -> None:
    """Figures of the paper's code: millions of parameters, 1e9 multiply-accumulates, GB in bf16."""
    size = SIZES["XL"]
    model = random_transformer(BFMTransformer2DModel, "meta", torch.bfloat16, **size.blockwise)
    sit = random_transformer(SiTTransformer2DModel, "meta", torch.bfloat16, **size.dense)
    config = model.config
    assert (config.in_channels, config.sample_size, config.num_segments) == (4, 32, 6)
    assert (size.steps, size.pictures) == (48, (1, 8, 32))
    macs = bfm_macs(config)
    assert macs.full / 1e9 == pytest.approx(114.6, rel=0.01)
    assert macs.approximated / 1e9 == pytest.approx(46.9, rel=0.01)
    assert sit_macs(sit.config).full / 1e9 == pytest.approx(118.6, rel=0.01)
    stays = gpu_bfm._bytes(model.trunk) + gpu_bfm._bytes(model.shared)
    assert stays / 1e9 == pytest.approx(0.79, abs=0.01)
    assert gpu_bfm._bytes(model.segments[0]) / 1e9 == pytest.approx(0.19, abs=0.01)
    assert sum(p.numel() for p in sit.parameters()) / 1e6 == pytest.approx(675, rel=0.01)


def test_macs_of_a_step_are_those_that_run(found, blockwise, dense, batch) -> None:
    section = found["steps"][batch]
    rows = 2 * int(batch)
    calls = gpu_bfm.evaluations_of(blockwise.transformer, dense.transformer, rows, "cpu")
    assert calls.keys() == KINDS
    assert section["rows"] == rows
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        assert section[name]["macs_per_row"] * rows * 2 == counter.get_total_flops()


def test_steps_are_timed_against_sit(found, batch) -> None:
    section = found["steps"][batch]
    for name in KINDS:
        row = section[name]
        low, high = row["ms_range"]
        assert 0 < low <= row["ms_per_evaluation"] <= high
        assert row["time_over_sit"]["pairs"] == 2
        assert row["macs_over_sit"] == row["macs_per_row"] / section["sit"]["macs_per_row"]
    assert section["sit"]["time_over_sit"]["ratio"] == 1
    assert section["hold"]["macs_per_row"] < section["frn"]["macs_per_row"]


def test_a_timed_run_is_of_so_many_evaluations() -> None:
    calls = []
    gpu_bfm._repeat(lambda: calls.append(1))
    assert len(calls) == gpu_bfm.EVALUATIONS


def test_pictures_are_priced_by_the_rows_that_ran(found, batch) -> None:
    section, step = found["pictures"][batch], found["steps"][batch]
    each, starts = 2 * int(batch) * STEPS, 2 * int(batch) * SEGMENTS
    evaluations = {name: section[name]["evaluations"] for name in KINDS}
    assert section["steps"] == STEPS
    assert evaluations == {
        "full": {"trunk": each, "frn": 0, "stack": each},
        "frn": {"trunk": starts, "frn": each - starts, "stack": each},
        "hold": {"trunk": starts, "frn": 0, "stack": each},
        "sit": {"trunk": 0, "frn": 0, "stack": each},
    }
    macs = {name: step[name]["macs_per_row"] for name in KINDS}
    expected = {
        "full": 2 * STEPS * macs["full"],
        "sit": 2 * STEPS * macs["sit"],
        **{m: 2 * SEGMENTS * macs["full"] + 2 * (STEPS - SEGMENTS) * macs[m] for m in FAST},
    }
    assert {name: section[name]["macs_per_picture"] for name in KINDS} == expected
    for name in KINDS:
        assert section[name]["macs_over_sit"] == expected[name] / expected["sit"]
        assert section[name]["seconds_per_picture"] > 0


def test_weights_of_one_segment_are_within_the_bound(found) -> None:
    section = found["parameter_bytes"]
    parts = section["parts"]
    assert parts.keys() == {"shared", "trunk", "frn", "segment"}
    segment = parts["segment"]
    stays = parts["trunk"] + parts["shared"]
    assert section["all_segments"]["bytes"] == 4 * found["denoiser_parameters"]
    assert section["all_segments"]["bytes"] == stays + parts["frn"] + SEGMENTS * segment
    assert section["bound"] == pytest.approx(stays + 1.2 * segment)
    assert stays + segment < section["one_segment"]["bytes"] <= section["bound"]
    assert section["within_bound"]


def test_more_than_the_bound_is_said(blockwise, monkeypatch) -> None:
    def greedy(device):
        blockwise.transformer.residency = SegmentResidency(blockwise.transformer, device, 1.0)

    monkeypatch.setattr(blockwise, "enable_segment_residency", greedy)
    section = gpu_bfm.parameter_bytes(blockwise, "cpu")
    assert not section["within_bound"]
    assert blockwise.transformer.residency is None


def test_one_segment_at_a_time_draws_the_same(found, batch) -> None:
    section = found["residency"][batch]
    segment = found["parameter_bytes"]["parts"]["segment"]
    assert section["rows"] == 2 * int(batch)
    for mode in gpu_bfm.MODES:
        assert section[mode]["is_identical"]
        assert section[mode]["one_over_all"]["pairs"] == 2
        assert section[mode]["bytes_moved_per_call"] == SEGMENTS * segment


def test_a_wrong_prefetch_is_noticed(blockwise, monkeypatch) -> None:
    def forget_to_copy(self, segment):
        for room in self._staging.values():
            room.zero_()
        self._staged = segment

    monkeypatch.setattr(SegmentResidency, "_stage", forget_to_copy)
    section = gpu_bfm.residency(blockwise, TINY, 1, 1, "cpu")
    assert not any(section[mode]["is_identical"] for mode in gpu_bfm.MODES)


def test_random_weights_move_latents_and_modes_differ(blockwise, dense) -> None:
    """Velocities of an untrained model are zero, and all latents would be equal."""
    drawn = [gpu_bfm.draw(blockwise, TINY, 1, mode).latents for mode in gpu_bfm.MODES]
    drawn.append(gpu_bfm.draw(dense, TINY, 1).latents)
    assert all(latents.isfinite().all() for latents in drawn)
    for index, latents in enumerate(drawn):
        assert not any(torch.equal(latents, other) for other in drawn[:index])


def test_nothing_is_plotted(folder) -> None:
    assert [file.name for file in folder.iterdir()] == ["gpu-bfm.json"]


def test_what_the_time_limit_does_not_allow_is_left_out(tmp_path) -> None:
    gpu.main([*OPTIONS, "--time-limit-s", "0", "--output", str(tmp_path), "--name", "none"])
    found = json.loads((tmp_path / "none.json").read_text())["pipelines"]["bfm"]
    parts = [found["parameter_bytes"]]
    for name in ("residency", "steps", "pictures"):
        assert found[name].keys() == {"1", "2"}
        parts += found[name].values()
    assert all("beyond the time limit" in part["skipped"] for part in parts)


def test_sections_of_other_pipelines_cannot_be_chosen(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as refused:
        gpu.parse([*OPTIONS, "--output", str(tmp_path), "--sections", "caches"])
    assert refused.value.code == 2
    assert "bfm has sections of its own" in capsys.readouterr().err
