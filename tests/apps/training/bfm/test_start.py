"""The model that a training begins with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.blockwise import bfm, pipeline, sit
from helpers.blockwise_training import SHAPE, tiny

from apps.training.bfm.options import BFMTraining
from apps.training.bfm.start import (
    LatentShape,
    start_model,
    with_approximation,
)
from gensift.errors import ConfigError
from gensift.pipelines.bfm.sizes import BFM_SIZES
from gensift.pipelines.bfm.split import SplitTransformer2DModel
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

FIVE = LatentShape(sample_size=8, in_channels=4, num_classes=5)
LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 5])
OWN = ("hidden_size", "num_heads", "trunk_depth", "segment_depth", "frn_depth", "adaln_rank")
FROM_FOLDER: dict[str, Any] = dict.fromkeys([*OWN, "num_segments"])


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def test_a_new_model_depends_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (start_model(tiny(seed=seed), SHAPE).transformer for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    values = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert one.boundaries == (1.0, 2 / 3, 1 / 3, 0.0)
    # Gates and the last layer start at zero.
    assert not one(LATENTS, 0.4, torch.tensor([0, 1, 2])).sample.any()


def test_size_names_the_numbers_and_single_ones_take_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("apps.training.bfm.start.initialise", lambda module: None)
    with torch.device("meta"):
        config = start_model(BFMTraining(size="S", trunk_depth=1), SHAPE).transformer.config
    wanted = BFM_SIZES["S"] | {"trunk_depth": 1, "num_segments": 6, "num_classes": 2}
    assert {name: config[name] for name in wanted} == wanted


def test_boundaries_say_how_many_segments_there_are() -> None:
    start = start_model(tiny(num_segments=None, boundaries=(1, 0.3, 0)), SHAPE)
    assert start.transformer.boundaries == (1.0, 0.3, 0.0)
    with pytest.raises(ConfigError, match="`boundaries` are"):
        start_model(tiny(num_segments=3, boundaries=(1, 0.3, 0)), SHAPE)


@pytest.mark.parametrize("is_pipeline", [True, False])
def test_init_goes_on_from_a_pipeline_or_a_transformer(is_pipeline: bool, tmp_path: Path) -> None:
    model = bfm()
    place = saved(pipeline(model) if is_pipeline else model, tmp_path)
    found = start_model(tiny(**FROM_FOLDER), FIVE, init=place).transformer
    assert isinstance(found, BFMTransformer2DModel)
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_a_backbone_without_frn_gets_one_that_holds_features(tmp_path: Path) -> None:
    plain = bfm(frn_depth=0)
    config = tiny(**FROM_FOLDER | {"frn_depth": 2}, steps=0)
    found = start_model(config, FIVE, init=saved(plain, tmp_path)).transformer
    assert found.has_approximation and len(found.frn.blocks) == 2
    assert torch.equal(found(LATENTS, 0.4, LABELS).sample, plain(LATENTS, 0.4, LABELS).sample)
    condition = found.condition(torch.full((3,), 0.4), LABELS)
    assert not found.residual(LATENTS, condition).any()
    assert len(with_approximation(plain, 1).frn.blocks) == 1


def test_a_dense_model_is_split_and_equals_itself(tmp_path: Path) -> None:
    dense = sit()
    config = tiny(**FROM_FOLDER | {"trunk_depth": 1, "num_segments": 2})
    start = start_model(config, FIVE, from_dense=saved(pipeline(dense), tmp_path))
    assert isinstance(start.transformer, SplitTransformer2DModel)
    assert start.transformer.has_approximation
    for sigma in (1.0, 0.5, 0.2):
        wanted = dense(LATENTS, sigma, LABELS).sample
        assert torch.equal(start.transformer(LATENTS, sigma, LABELS).sample, wanted)
        assert torch.equal(start.teacher(LATENTS, sigma, LABELS).sample, wanted)


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"trunk_depth": 1}, FIVE, r"`trunk_depth` is 1, but that has 2.*leave them out"),
        ({"boundaries": (1, 0.5, 0.1, 0)}, FIVE, "`boundaries` is"),
        ({"frn_depth": 0}, FIVE, "has an FRN, which would not fit.*--frn-steps"),
        ({}, SHAPE, r"`num_classes` 5 instead of 2"),
        ({}, LatentShape(16, 8, 5), "`sample_size` 8 instead of 16, `in_channels` 4 instead of 8"),
    ],
)
def test_what_does_not_fit_the_given_model(
    changes: dict[str, Any], shape: LatentShape, message: str, tmp_path: Path
) -> None:
    place = saved(bfm(), tmp_path)
    with pytest.raises(ConfigError, match=message):
        start_model(tiny(**FROM_FOLDER | changes), shape, init=place)


def test_mistakes_with_a_dense_model(tmp_path: Path) -> None:
    place = saved(sit(), tmp_path / "dense")
    config = tiny(**FROM_FOLDER)
    with pytest.raises(ConfigError, match="give --trunk-depth"):
        start_model(config, FIVE, from_dense=place)
    with pytest.raises(ConfigError, match="can give 0 to 2"):
        start_model(tiny(**FROM_FOLDER | {"trunk_depth": 3}), FIVE, from_dense=place)
    with pytest.raises(ConfigError, match="`frn_steps` and `steps` must be above 0"):
        start_model(tiny(**FROM_FOLDER | {"trunk_depth": 1}, frn_steps=0), FIVE, from_dense=place)
    with pytest.raises(ConfigError, match="Both --init and --from-dense"):
        start_model(config, FIVE, init=place, from_dense=place)
    with pytest.raises(ConfigError, match="holds a SiTTransformer2DModel; give a folder of BFM"):
        start_model(config, FIVE, init=place)
    with pytest.raises(ConfigError, match="is neither a folder nor a zoo model"):
        start_model(config, FIVE, init=str(tmp_path / "nowhere"))
