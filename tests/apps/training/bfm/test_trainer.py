"""The loop against one written by hand; resuming; what each stage changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.blockwise import bfm, sit
from helpers.blockwise_training import (
    SHAPE,
    Interrupted,
    InterruptedAfter,
    by_hand,
    tiny,
    trainer_of,
    weights_after,
)
from torch import Tensor

from apps.training.bfm.encoded import EncodedPictures
from apps.training.bfm.start import Start, start_model
from apps.training.bfm.trainer import check_batches
from gensift.errors import ConfigError
from gensift.pipelines.bfm.split import split_dense


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_stage_1_is_what_its_parts_say(
    data: EncodedPictures, tmp_path: Path, micro_batch: int | None
) -> None:
    config = tiny(frn_steps=0, micro_batch=micro_batch)
    found = weights_after(data, tmp_path, config)
    wanted = by_hand(data, config)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    before = start_model(config, SHAPE).transformer.state_dict()
    assert any(not torch.equal(found[name], before[name]) for name in found)


@pytest.fixture(scope="module")
def whole(data: EncodedPictures, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of an undisturbed run."""
    return weights_after(data, tmp_path_factory.mktemp("whole"), tiny())


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_run_stopped_anywhere_ends_as_an_undisturbed_one(
    data: EncodedPictures, whole: dict[str, Tensor], tmp_path: Path, steps: int
) -> None:
    """Checkpoints at steps 2 and 4 of stage 1, 2 and 3 of stage 2."""
    trainer = trainer_of(start_model(tiny(), SHAPE), data, tmp_path, tiny())
    with pytest.raises(Interrupted):
        trainer.run(InterruptedAfter(steps))
    # Numbers that others draw meanwhile make no difference.
    torch.rand(1)
    resumed = weights_after(data, tmp_path, tiny())
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_stage_2_begins_from_the_average_and_changes_frn_alone(
    data: EncodedPictures, whole: dict[str, Tensor], tmp_path: Path
) -> None:
    start = start_model(tiny(), SHAPE)
    new = {key: value.clone() for key, value in start.transformer.state_dict().items()}
    trainer = trainer_of(start, data, tmp_path, tiny())
    trainer.stages = trainer.stages[:1]
    trainer.run()
    stage_1 = start.transformer.state_dict()
    changed = {key for key in whole if not torch.equal(whole[key], stage_1[key])}
    assert changed and all(key.startswith("frn.") for key in changed)
    untrained = {key for key in whole if key.startswith("frn.")}
    assert all(torch.equal(new[key], stage_1[key]) for key in untrained)


def test_a_finished_backbone_without_frn_is_trained_in_stage_2(
    data: EncodedPictures, tmp_path: Path
) -> None:
    """The released code asks a backbone's checkpoint for keys of FRN, and fails."""
    plain = bfm(frn_depth=0, num_classes=2)
    plain.save_pretrained(tmp_path / "plain")
    names = ("hidden_size", "num_heads", "trunk_depth", "segment_depth", "adaln_rank")
    config = tiny(**dict.fromkeys(names), steps=0, frn_steps=40, save_every=100)
    start = start_model(config, SHAPE, init=str(tmp_path / "plain"))
    figures = trainer_of(start, data, tmp_path / "work", config).run()
    assert list(figures) == ["frn"] and figures["frn"]["steps"] == 40
    # An untrained FRN holds features, so it begins level.
    assert figures["frn"]["approximated"] < figures["frn"]["held"]
    for key, value in plain.state_dict().items():
        assert torch.equal(start.transformer.state_dict()[key], value)


def test_stage_3_is_taught_by_the_model_as_it_was_given(
    data: EncodedPictures, tmp_path: Path
) -> None:
    model = bfm(num_classes=2)
    model.save_pretrained(tmp_path / "finished")
    names = ("hidden_size", "num_heads", "trunk_depth", "segment_depth", "adaln_rank")
    options = dict.fromkeys(names) | {"steps": 0, "frn_steps": 0, "joint_steps": 4}
    config = tiny(**options, save_every=2)

    def trained(folder: Path, stop: int | None = None) -> dict[str, Tensor]:
        start = start_model(config, SHAPE, init=str(tmp_path / "finished"))
        trainer = trainer_of(start, data, folder, config)
        if stop is None:
            assert list(trainer.run()) == ["joint"]
        else:
            with pytest.raises(Interrupted):
                trainer.run(InterruptedAfter(stop))
        teacher = trainer.stages[0].loss.teacher.state_dict()
        assert all(torch.equal(teacher[key], value) for key, value in model.state_dict().items())
        return dict(start.transformer.state_dict())

    whole = trained(tmp_path / "whole")
    before = model.state_dict()
    changed = {key.split(".")[0] for key in whole if not torch.equal(whole[key], before[key])}
    assert changed == {"segments", "frn"}
    trained(tmp_path / "stopped", stop=3)
    again = trained(tmp_path / "stopped")
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_stage_3_wants_a_finished_model() -> None:
    with pytest.raises(ConfigError, match="run of their own"):
        tiny(joint_steps=2)
    with pytest.raises(ConfigError, match="--init"):
        start_model(tiny(steps=0, joint_steps=2), SHAPE)


def test_a_dense_model_is_distilled_into_stacks_and_frn(
    data: EncodedPictures, tmp_path: Path
) -> None:
    names = ("hidden_size", "num_heads", "segment_depth", "adaln_rank")
    config = tiny(**dict.fromkeys(names), num_segments=2, trunk_depth=1, learning_rate=3e-3)
    dense = sit()
    teacher = {key: value.clone() for key, value in dense.state_dict().items()}
    start = Start(split_dense(dense, 2, 1, frn_depth=1), dense)
    before = {key: value.clone() for key, value in start.transformer.state_dict().items()}
    figures = trainer_of(start, data, tmp_path, config).run()
    assert list(figures) == ["frn", "distillation"]
    assert all(torch.equal(dense.state_dict()[key], value) for key, value in teacher.items())
    after = start.transformer.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"segments", "frn"}


def test_the_loss_falls(data: EncodedPictures, tmp_path: Path) -> None:
    def error(steps: int) -> float:
        config = tiny(steps=steps, frn_steps=0, learning_rate=3e-3, save_every=100)
        trainer = trainer_of(start_model(config, SHAPE), data, tmp_path / str(steps), config)
        return trainer.run()["flow"]["flow"]

    assert error(60) < 0.8 * error(2)


def test_alignment_trains_a_projection_that_is_not_published(
    data: EncodedPictures, tmp_path: Path
) -> None:
    class WithFeatures:
        """The data, with features that are the latents of each token."""

        def __len__(self) -> int:
            return len(data)

        def draw(self, rows: Tensor, generator: torch.Generator) -> Any:
            latents, labels, _ = data.draw(rows, generator)
            features = latents.unfold(2, 2, 2).unfold(3, 2, 2)
            return latents, labels, features.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    config = tiny(frn_steps=0, alignment_weight=0.5, steps=40, projection_width=16, save_every=100)
    start = start_model(config, SHAPE)
    trainer = trainer_of(start, WithFeatures(), tmp_path, config, feature_channels=16)  # type: ignore[arg-type]
    figures = trainer.run()["flow"]
    assert figures.keys() == {"steps", "flow", "alignment"} and figures["alignment"] < -0.2
    assert not any("projection" in key for key in start.transformer.state_dict())


def test_gradient_checkpointing_changes_no_result(
    data: EncodedPictures, whole: dict[str, Tensor], tmp_path: Path
) -> None:
    saving = weights_after(data, tmp_path, tiny(gradient_checkpointing=True))
    for key, value in whole.items():
        torch.testing.assert_close(saving[key], value, rtol=0, atol=1e-6)


def test_bfloat16_trains_weights_that_stay_float32(
    data: EncodedPictures, whole: dict[str, Tensor], tmp_path: Path
) -> None:
    found = weights_after(data, tmp_path, tiny(mixed_precision="bf16"))
    assert all(value.dtype == torch.float32 for value in found.values())
    differences = [float((found[name] - value).abs().max()) for name, value in whole.items()]
    assert 0 < max(differences) < 0.1


def test_a_gradient_that_is_not_finite_stops_with_advice(
    data: EncodedPictures, tmp_path: Path
) -> None:
    start = start_model(tiny(), SHAPE)
    with torch.no_grad():
        start.transformer.shared.final.out.bias.fill_(float("inf"))
    with pytest.raises(ConfigError, match=r"gradient is nan at step 0 of stage 'flow'; lower --le"):
        trainer_of(start, data, tmp_path, tiny()).run()


def test_checkpoints_that_do_not_fit(data: EncodedPictures, tmp_path: Path) -> None:
    weights_after(data, tmp_path, tiny())
    trainer = trainer_of(start_model(tiny(), SHAPE), data, tmp_path, tiny())
    trainer.identity = "another"
    with pytest.raises(ConfigError, match="belongs to a training with other options"):
        trainer.run()
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"checkpoint\.pt' is damaged .*; delete it to begin"):
        weights_after(data, tmp_path, tiny())


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"batch_size": 9}, 2, "`batch_size` is 9, no multiple of 2 processes"),
        ({}, 2, "`frn_batch_size` gives 2 pictures at once for 3 segments"),
        ({"micro_batch": 5}, 1, "`micro_batch` is 5, which does not divide the 8 pictures"),
    ],
)
def test_batches_that_cannot_be_shared(
    changes: dict[str, Any], processes: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_batches(tiny(**changes), 3, processes)


def test_stages_that_are_left_out_need_no_batch() -> None:
    check: Callable[..., None] = check_batches
    check(tiny(frn_batch_size=1, frn_steps=0), 3, 1)
    check(tiny(batch_size=1, steps=0), 3, 1)
