"""Saving by segment, loading all of them or some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.blockwise import bfm, latents_of, pipeline, sit
from safetensors import safe_open

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.bfm.split import SplitTransformer2DModel, split_dense
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 4])


def test_every_segment_has_a_file_of_its_own(tmp_path: Path) -> None:
    model = bfm(num_segments=4)
    model.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 5
    for index, file in enumerate(files):
        with safe_open(file, "pt") as shard:
            keys = list(shard.keys())
        owners = {key.split(".")[1] if key.startswith("segments.") else None for key in keys}
        assert owners == {str(index - 1) if index else None}
    bfm(num_segments=2).save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_whole_model_comes_back(tmp_path: Path) -> None:
    model = bfm(boundaries=[1.0, 0.8, 0.3, 0.0])
    model.save_pretrained(tmp_path)
    again = BFMTransformer2DModel.from_pretrained(tmp_path)
    assert again.boundaries == (1.0, 0.8, 0.3, 0.0)
    assert torch.equal(again(LATENTS, 0.5, LABELS).sample, model(LATENTS, 0.5, LABELS).sample)
    half = BFMTransformer2DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_some_segments_run_and_the_others_say_so(tmp_path: Path) -> None:
    model = bfm()
    model.save_pretrained(tmp_path)
    # What is not asked for is not read.
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    key = next(key for key in index["weight_map"] if key.startswith("segments.2."))
    (tmp_path / index["weight_map"][key]).unlink()
    part = BFMTransformer2DModel.from_pretrained(tmp_path, segments=[1, 0])
    assert part.loaded_segments() == [0, 1]
    for sigma in (1.0, 0.5):
        assert torch.equal(
            part(LATENTS, sigma, LABELS).sample, model(LATENTS, sigma, LABELS).sample
        )
    with pytest.raises(ConfigError, match=r"Segment 2 was not loaded; loaded are \[0, 1\]"):
        part(LATENTS, 0.1, LABELS)
    with pytest.raises(ConfigError, match="load all of them to save"):
        part.save_pretrained(tmp_path)
    wide = BFMTransformer2DModel.from_pretrained(tmp_path, segments=[1], dtype=torch.bfloat16)
    assert wide.dtype == torch.bfloat16


def test_wrong_subsets_are_refused(tmp_path: Path) -> None:
    bfm().save_pretrained(tmp_path)
    for wrong in ([], [3]):
        with pytest.raises(ConfigError, match="at least one of 0 to 2"):
            BFMTransformer2DModel.from_pretrained(tmp_path, segments=wrong)
    with pytest.raises(ConfigError, match="no model with a shard per segment"):
        BFMTransformer2DModel.from_pretrained(tmp_path / "nowhere", segments=[0])


@pytest.mark.parametrize("kind", ["bfm", "split", "sit"])
def test_pipelines_load_by_the_public_way(kind: str, tmp_path: Path) -> None:
    model = {"bfm": bfm, "split": lambda: split_dense(sit(), 2, 1), "sit": sit}[kind]()
    pipe = pipeline(model)
    pipe.save_pretrained(tmp_path)
    again = gensift.load_pipeline(tmp_path, device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again) is gensift.BFMPipeline and type(again.transformer) is type(model)
    run = {"num_inference_steps": 4, "guidance_scale": 2.0}
    assert torch.equal(latents_of(again, [3, 4], **run), latents_of(pipe, [3, 4], **run))


def test_a_split_model_loads_in_parts(tmp_path: Path) -> None:
    split_dense(sit(), 3, 1).save_pretrained(tmp_path)
    part = SplitTransformer2DModel.from_pretrained(tmp_path, segments=[2])
    assert torch.equal(part(LATENTS, 0.1, LABELS).sample, sit()(LATENTS, 0.1, LABELS).sample)
