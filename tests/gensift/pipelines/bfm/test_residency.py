"""One segment on the device: the bound on memory, and pictures that do not change."""

from __future__ import annotations

import pytest
import torch
from helpers.blockwise import bfm, latents_of, pipeline, sit

from gensift.errors import ConfigError
from gensift.pipelines.bfm.macs import parameter_counts

RUN = {"num_inference_steps": 8, "guidance_scale": 2.0}


def bytes_of(parts: int) -> float:
    return 4.0 * parts


@pytest.mark.parametrize("mode", ["full", "frn", "hold"])
@pytest.mark.parametrize("segment_depth", [1, 5])
def test_memory_is_bounded_and_pictures_are_the_same(mode: str, segment_depth: int) -> None:
    model = bfm(num_segments=4, segment_depth=segment_depth)
    pipe = pipeline(model)
    plain = latents_of(pipe, [0, 1], feature_mode=mode, **RUN)
    counts = parameter_counts(model)
    residency = pipe.enable_segment_residency("cpu")
    others = counts["trunk"] + counts["shared"]
    assert residency.bytes_on_device <= bytes_of(others) + 1.2 * bytes_of(counts["segment"])
    assert residency.bytes_on_device > bytes_of(others) + bytes_of(counts["segment"])
    assert torch.equal(latents_of(pipe, [0, 1], feature_mode=mode, **RUN), plain)
    # FRN comes when it is first used.
    others += counts["frn"] * (mode == "frn")
    assert residency.bytes_on_device <= bytes_of(others) + 1.2 * bytes_of(counts["segment"])
    # Each segment is moved once per run: it is not fetched anew at every step.
    assert residency.bytes_moved == bytes_of(4 * counts["segment"])
    assert torch.equal(latents_of(pipe, [0, 1], feature_mode=mode, **RUN), plain)
    pipe.disable_segment_residency()
    assert torch.equal(latents_of(pipe, [0, 1], feature_mode=mode, **RUN), plain)


def test_only_the_active_segment_uses_the_slots() -> None:
    model = bfm()
    residency = pipeline(model).enable_segment_residency("cpu", ahead=0.0)
    weights = [part.blocks[0].attention.to_out.weight for part in model.segments]
    homes = [weight.data_ptr() for weight in weights]
    values = [weight.clone() for weight in weights]
    for active in (0, 2, 1, 0):
        residency.activate(active)
        slots = [w.data_ptr() != home for w, home in zip(weights, homes, strict=True)]
        assert slots == [index == active for index in range(3)]
        assert all(torch.equal(w, v) for w, v in zip(weights, values, strict=True))


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        pipeline(bfm()).enable_segment_residency("cpu", ahead=2)
    with pytest.raises(ConfigError, match="has no segments"):
        pipeline(sit()).enable_segment_residency("cpu")
