"""Recordings against the same pipeline calls, made and decoded one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers.searches import contrast, generators
from helpers.speaking_pipelines import speaking
from helpers.tiny_schedulers import SCHEDULERS
from PIL import Image
from torch import Tensor

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.errors import ConfigError, RunFolderError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds
from rewards.noise_aware.recording import Recording
from samplers.diffusion.preview import Previewer
from samplers.diffusion.record import RecordConfig, record, to_bytes

PROMPTS = ["a red circle", "two blue squares", "a green cross"]
CALL: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 4}
CONFIG = RecordConfig(num_images=2, seed=5, prompts_per_shard=2)
# One flow model, one whose solver makes a step more than asked, one that draws noise on the way.
PIPELINES = {"flux": ("flux", None), "sd15": ("sd15", None), "sdxl": ("sdxl", "euler-ancestral")}


def pipeline(case: str) -> Any:
    return speaking(*PIPELINES[case])


def letters(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Knows its prompt: mean brightness times its length."""
    return images.mean((1, 2, 3)) * torch.tensor([float(len(text)) for text in prompts])


REWARDS = {"contrast": contrast, "letters": letters}


def made(
    pipe: Any, folder: Path, config: RecordConfig = CONFIG, prompts: Sequence[str] = PROMPTS
) -> Recording:
    record(pipe, prompts, REWARDS, folder, config, description={"model": "tiny"}, **CALL)
    return Recording(folder)


def by_hand(pipe: Any, prompt_index: int, config: RecordConfig = CONFIG) -> Any:
    """Pictures per step, and the pipeline's own, of one prompt's candidates."""
    seeds = candidate_seeds(config.seed, prompt_index, config.num_images)
    events: list[StepEvent] = []
    with observe_scheduler(pipe.scheduler, events.append):
        finished = pipe(
            PROMPTS[prompt_index],
            num_images_per_prompt=config.num_images,
            generator=generators(seeds),
            output_type="pt",
            **CALL,
        ).images
    previewer = Previewer(BoundPipeline.of(pipe), 16, 16)
    early = [previewer.decode(event.pred_original_sample) for event in events[:-1]]
    return early, finished, seeds, events


@pytest.mark.parametrize("case", PIPELINES)
def test_a_recording_holds_every_estimate_and_the_pipelines_own_pictures(
    case: str, tmp_path: Path
) -> None:
    recording = made(pipeline(case), tmp_path)
    assert recording.prompts == tuple(PROMPTS)
    assert recording.reward_names == ("contrast", "letters")
    pipe = pipeline(case)
    for index, prompt in enumerate(PROMPTS):
        early, finished, seeds, events = by_hand(pipe, index)
        assert recording.num_steps == len(early) + 1 == (5 if case == "sd15" else 4)
        for step, picture in enumerate([*early, finished]):
            found = recording.pictures([index], step)[0].float()
            # Rows are drawn in other batches here, which may tip an 8-bit rounding.
            assert (found - (picture * 255)).abs().max() <= 0.5 + 0.02
        for name, reward in REWARDS.items():
            expected = reward(finished, [prompt] * 2)
            found = recording.scores(name, [index])[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        scale = [e.sigma if case == "flux" else e.sigma / (1 + e.sigma) for e in events]
        assert recording.sigmas == pytest.approx(scale)
        assert all(0 < sigma <= 1 for sigma in recording.sigmas)
        assert len(set(seeds)) == 2
    everything = torch.cat([recording.pictures(range(3), 0), recording.pictures(range(3), 3)])
    assert len(everything.flatten(0, 1).unique(dim=0)) == 12


@pytest.mark.parametrize("case", PIPELINES)
def test_recording_leaves_the_pipeline_as_it_was(case: str, tmp_path: Path) -> None:
    pipe = pipeline(case)
    before = by_hand(pipe, 0)[1]
    made(pipe, tmp_path)
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(by_hand(pipe, 0)[1], before)


@pytest.mark.parametrize(
    "config",
    [
        RecordConfig(num_images=2, seed=5, prompts_per_shard=1),
        RecordConfig(num_images=2, seed=5, prompts_per_shard=3, max_rows=1),
        RecordConfig(num_images=3, seed=5, prompts_per_shard=2, max_rows=4),
    ],
)
@pytest.mark.parametrize("case", PIPELINES)
def test_batches_do_not_change_what_is_recorded(
    case: str, config: RecordConfig, tmp_path: Path
) -> None:
    whole = made(pipeline(case), tmp_path / "whole")
    parts = made(pipeline(case), tmp_path / "parts", config)
    for step in range(whole.num_steps):
        ours, theirs = (r.pictures(range(3), step).int()[:, :2] for r in (whole, parts))
        assert (ours - theirs).abs().max() <= 1
    for name in REWARDS:
        ours, theirs = (r.scores(name)[:, :2] for r in (whole, parts))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_a_deleted_shard_is_redone_to_the_same_bytes(tmp_path: Path) -> None:
    made(pipeline("flux"), tmp_path)
    files = sorted(tmp_path.glob("shard-*"))
    assert len(files) == 2
    for file in files:
        before = {f: f.read_bytes() for f in files}
        file.unlink()
        made(pipeline("flux"), tmp_path)
        assert {f: f.read_bytes() for f in files} == before


def test_an_interrupted_recording_goes_on_and_equals_an_undisturbed_one(tmp_path: Path) -> None:
    made(pipeline("flux"), tmp_path / "whole")
    calls: list[int] = []

    def stop(count: int) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    arguments = (PROMPTS, REWARDS, tmp_path / "parts", CONFIG)
    pipe = pipeline("flux")
    with pytest.raises(KeyboardInterrupt):
        record(pipe, *arguments, description={"model": "tiny"}, on_shard=stop, **CALL)
    counts: list[int] = []
    record(pipe, *arguments, description={"model": "tiny"}, on_shard=counts.append, **CALL)
    assert calls == [2] and counts == [2, 1]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes()


def test_finished_shards_are_not_drawn_again(tmp_path: Path, monkeypatch: Any) -> None:
    pipe = pipeline("flux")
    made(pipe, tmp_path)
    monkeypatch.setattr(type(pipe), "__call__", None)
    made(pipe, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 3),
        ("seed", 6),
        ("prompts_per_shard", 1),
        ("picture_size", 8),
        ("preview_decoder", "vae"),
    ],
)
def test_another_config_in_the_same_folder_is_refused(
    name: str, value: Any, tmp_path: Path
) -> None:
    pipe = pipeline("flux")
    made(pipe, tmp_path)
    options = {"num_images": 2, "seed": 5, "prompts_per_shard": 2} | {name: value}
    with pytest.raises(RunFolderError, match=f"another {name}; repeat that command"):
        made(pipe, tmp_path, RecordConfig(**options))


def test_other_rewards_models_and_prompts_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    made(pipe, tmp_path)
    with pytest.raises(RunFolderError, match="another rewards"):
        record(pipe, PROMPTS, {}, tmp_path, CONFIG, description={"model": "tiny"}, **CALL)
    with pytest.raises(RunFolderError, match="another model"):
        record(pipe, PROMPTS, REWARDS, tmp_path, CONFIG, description={"model": "huge"}, **CALL)
    with pytest.raises(RunFolderError, match="another prompts"):
        made(pipe, tmp_path, prompts=PROMPTS[:2])
    for others in (PROMPTS[::-1], ["a", *PROMPTS[1:]], [*PROMPTS[:2], "b"]):
        with pytest.raises(RunFolderError, match="other prompts"):
            made(pipe, tmp_path, prompts=others)
    assert json.loads((tmp_path / "recording.json").read_text())["prompts"] == 3


def test_a_torn_shard_is_named_before_anything_is_drawn(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    made(pipe, tmp_path)
    file = tmp_path / "shard-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"shard-00000.safetensors' is damaged; delete it"):
        made(pipe, tmp_path)


def test_unknown_schedulers_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    pipe = pipeline("sd15")
    pipe.scheduler = SCHEDULERS["heun"]()
    with pytest.raises(UnsupportedPipelineError, match="no x0 estimate"):
        made(pipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_tiny_decoder_shows_estimates_and_the_vae_what_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "decoder"
    torch.manual_seed(0)
    decoder = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    decoder.save_pretrained(folder)
    config = RecordConfig(num_images=2, seed=5, preview_decoder=str(folder))
    recording = made(pipeline("flux"), tmp_path / "recording", config)
    pipe = pipeline("flux")
    _, finished, _, events = by_hand(pipe, 1)
    previewer = Previewer(BoundPipeline.of(pipe), 16, 16, decoder=decoder)
    for step, event in enumerate(events[:-1]):
        expected = previewer.decode(event.pred_original_sample) * 255
        assert (recording.pictures([1], step)[0].float() - expected).abs().max() <= 0.52
    assert (recording.pictures([1], 3)[0].float() - finished * 255).abs().max() <= 0.52


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(300, 150, (224, 112)), (150, 300, (112, 224)), (448, 448, (224, 224)), (2, 2000, (1, 224))],
)
def test_large_pictures_are_scaled_as_pil_does(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    coarse = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    size = (height, width)
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    images = (images * 255).round() / 255
    found = to_bytes(images, 224)
    assert found.dtype == torch.uint8 and found.shape == (2, 3, *expected)
    for image, scaled in zip(images, found, strict=True):
        pixels: Any = (image * 255).round().byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels).resize(expected[::-1], Image.Resampling.BICUBIC)
        wanted = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        difference = scaled.permute(1, 2, 0).flatten().int() - wanted.int()
        assert difference.abs().max() <= 2


def test_small_pictures_are_kept_exactly_and_odd_values_cut_off() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_bytes(levels / 255, 16), levels.byte())
    assert to_bytes(torch.tensor([-0.5, 1.5, 0.5]).view(1, 3, 1, 1), 8).flatten().tolist() == [
        0,
        255,
        128,
    ]


def test_large_pictures_are_recorded_small(tmp_path: Path) -> None:
    config = RecordConfig(num_images=2, seed=5, prompts_per_shard=2, picture_size=8)
    small = made(pipeline("flux"), tmp_path / "small", config)
    whole = made(pipeline("flux"), tmp_path / "whole")
    for step in range(whole.num_steps):
        ours, theirs = (r.pictures(range(3), step).flatten(0, 1) for r in (small, whole))
        assert ours.shape == (6, 3, 8, 8) and theirs.shape == (6, 3, 16, 16)
        assert (to_bytes(theirs.float() / 255, 8).int() - ours.int()).abs().max() <= 1
    # Scores are those of the pictures in full size.
    assert torch.equal(small.scores("contrast"), whole.scores("contrast"))
