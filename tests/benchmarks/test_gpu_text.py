"""Text decoding in the GPU benchmark, on a tiny LLaDA."""

import json

import pytest

from benchmarks import gpu, gpu_text

OPTIONS = ["--tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "1", "--sizes", "llada"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    gpu.main([*OPTIONS, "--output", str(folder), "--name", "gpu-text"])
    return json.loads((folder / "gpu-text.json").read_text())["pipelines"]["llada"]


def test_caches_compute_fewer_positions_in_as_many_passes(found) -> None:
    rows = found["kv"]
    assert {rows[name]["forward_passes_per_text"] for name in gpu_text.POLICIES} == {24}
    computed = {name: rows[name]["positions_computed"] for name in gpu_text.POLICIES}
    assert computed["none"] == gpu_text.ROWS * 24 * (48 + 24)
    assert computed["none"] > computed["prefix"] > computed["dual"]


def test_a_threshold_saves_passes(found) -> None:
    fast, even = found["kv_threshold"]["none"], found["kv"]["none"]
    assert fast["forward_passes_per_text"] < even["forward_passes_per_text"]


def test_diversity_is_timed_against_plain_decoding(found) -> None:
    assert found["diversity"]["texts"] == 16
    assert found["diversity"]["odd_over_plain"]["ratio"] > 0


def test_what_the_time_limit_does_not_allow_is_left_out(tmp_path) -> None:
    limited = [*OPTIONS, "--time-limit-s", "0", "--output", str(tmp_path), "--name", "none"]
    gpu.main(limited)
    found = json.loads((tmp_path / "none.json").read_text())["pipelines"]["llada"]
    for name in ("kv", "kv_threshold", "diversity"):
        assert "beyond the time limit" in found[name]["skipped"]
