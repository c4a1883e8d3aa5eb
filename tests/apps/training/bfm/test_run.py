"""From pictures to a pipeline: its folder, going on, and what is refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from helpers.blockwise import sit
from helpers.blockwise_training import (
    CLASSES,
    SIDE,
    Interrupted,
    InterruptedAfter,
    tiny,
    tiny_vae,
)

import gensift
from apps.training.bfm.pictures import PictureFolder
from apps.training.bfm.run import Sources, train_bfm
from gensift.errors import ConfigError, RunFolderError

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("vae")
    tiny_vae(scaling_factor=0.5, shift_factor=0.1).save_pretrained(place)
    return str(place)


@pytest.fixture
def train(pictures: PictureFolder, vae: str) -> Train:
    def run(
        output: Path, stop_after: int | None = None, sources: Any = None, **changes: Any
    ) -> dict[str, Any]:
        @contextmanager
        def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
            is_stopped = stop_after is not None and what == "optimiser steps"
            yield InterruptedAfter(stop_after or 0) if is_stopped else lambda count: None

        given = {"pictures": pictures.folder, "vae": vae} | (sources or {})
        accelerator = Accelerator(cpu=True, mixed_precision="no")
        config, options = tiny(**changes), {"versions": {"torch": "2"}, "progress": progress}
        return train_bfm(Sources(**given), output, config, accelerator=accelerator, **options)

    return run


def transformer_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "transformer").iterdir()}


def test_a_stopped_training_ends_in_the_same_pipeline(train: Train, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    report = train(whole)
    with pytest.raises(Interrupted):
        train(stopped, stop_after=3)
    assert not (stopped / "model_index.json").exists()
    # What does not change the batches may be changed before going on.
    assert train(stopped, save_every=1)["stages"] == report["stages"]
    assert transformer_files(stopped) == transformer_files(whole)

    assert report["stages"]["flow"]["steps"] == 4 and report["stages"]["frn"]["steps"] == 3
    assert report["stages"]["frn"].keys() == {"steps", "approximated", "held"}
    assert json.loads((whole / "training.json").read_text()) == report
    assert not (whole / "training" / "model").exists()
    shards = sorted(name for name in transformer_files(whole) if name.endswith(".safetensors"))
    assert len(shards) == 1 + 3  # one per segment

    pipe = gensift.load_pipeline(whole)
    assert pipe.config.classes == list(CLASSES)
    assert gensift.call_defaults(pipe) == {"num_inference_steps": 24, "guidance_scale": 1.5}
    run = {"num_inference_steps": 3, "output_type": "pt"}
    for mode in ("full", "frn"):
        images = pipe("light", feature_mode=mode, **run).images
        assert images.shape == (1, 3, SIDE, SIDE) and images.isfinite().all()

    again = train(whole, stop_after=0)  # would stop at once, were there anything to do
    assert again == report


def test_init_trains_frn_on_a_finished_model(train: Train, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(first, frn_steps=0, steps=2)
    assert not gensift.load_pipeline(first).transformer.has_approximation
    report = train(tmp_path / "second", steps=0, sources={"init": str(first)})
    assert list(report["stages"]) == ["frn"] and report["sources"]["init"] == str(first)
    pipe = gensift.load_pipeline(tmp_path / "second")
    found, before = (
        p.transformer.state_dict() for p in (pipe, gensift.load_pipeline(tmp_path / "first"))
    )
    assert all(torch.equal(found[key], value) for key, value in before.items())
    assert pipe("dark", feature_mode="frn", num_inference_steps=6, output_type="pt").images.any()


def test_a_dense_model_becomes_a_blockwise_one(train: Train, tmp_path: Path) -> None:
    dense = sit()
    dense = type(dense).from_config({**dense.config, "num_classes": 2})
    dense.save_pretrained(tmp_path / "dense")
    numbers = ("hidden_size", "num_heads", "segment_depth")
    report = train(
        tmp_path / "out",
        sources={"from_dense": str(tmp_path / "dense")},
        **dict.fromkeys(numbers),
        trunk_depth=1,
        features="dinov2",  # not needed, so not looked for
    )
    assert list(report["stages"]) == ["frn", "distillation"]
    pipe = gensift.load_pipeline(tmp_path / "out")
    assert type(pipe.transformer).__name__ == "SplitTransformer2DModel"
    assert pipe("dark", feature_mode="frn", num_inference_steps=6, output_type="pt").images.any()


def test_folders_that_are_refused(train: Train, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match="is not empty and holds no training"):
        train(mine)
    assert [file.name for file in mine.iterdir()] == ["letter.txt"]

    output = tmp_path / "out"
    with pytest.raises(Interrupted):
        train(output, stop_after=1)
    with pytest.raises(RunFolderError, match="another seed; repeat that command to resume it"):
        train(output, seed=1)
    train(output, steps=2, frn_steps=2)
    with pytest.raises(RunFolderError, match=r"another steps; it is finished, so .* --init"):
        train(output, steps=5, frn_steps=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 15}, r"`image_size` is 15.*2 pixels per latent.*multiple of 4; give 12"),
        ({"image_size": 3}, "give 4"),
        ({"features": "dinov5"}, "`features` is 'dinov5'"),
        ({"features": "shapes-clip", "image_size": 12}, "3 x 3 tokens"),
        ({"batch_size": 2}, "`batch_size` gives 2 pictures at once for 3 segments"),
        ({"sources": {"vae": "nowhere"}}, "'nowhere' is neither a folder nor"),
        (
            {"sources": {"init": "gone/away"}},
            "'gone/away' as transformer is not in",
        ),
    ],
)
def test_mistakes_leave_nothing_behind(
    train: Train, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
