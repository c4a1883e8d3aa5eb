import json
import shutil

import pytest
import torch
from helpers.noise_aware import SIGMAS, brightness_reward, inverted_recording
from safetensors.torch import load_file, save_file

from gensift.errors import ConfigError, RunFolderError
from rewards.noise_aware.recording import INDEX, Recording, RecordingWriter, Shard, batches

PROMPTS = [f"p{number}" for number in range(7)]


def shard(prompts, start=0, images=2, steps=3, side=4, reward="r"):
    generator = torch.Generator().manual_seed(start)
    groups = (len(prompts), images)
    return Shard(
        prompts=tuple(prompts),
        pictures=tuple(
            torch.randint(256, (*groups, 3, side, side), dtype=torch.uint8, generator=generator)
            for _ in range(steps)
        ),
        scores={reward: torch.rand(groups, generator=generator)},
        seeds=torch.arange(images).repeat(len(prompts), 1),
        sigmas=torch.linspace(1, 0.2, steps),
    )


@pytest.fixture
def folder(tmp_path):
    """Three shards of 3, 3 and 1 prompts."""
    writer = RecordingWriter(tmp_path, {"a": 1})
    for number, chosen in enumerate(batches(len(PROMPTS), 3)):
        writer.write(number, shard([PROMPTS[i] for i in chosen], start=number))
    return tmp_path


def test_what_was_written_is_read(folder):
    recording = Recording(folder)
    assert recording.prompts == tuple(PROMPTS)
    assert (recording.num_images, recording.num_steps) == (2, 3)
    assert recording.sigmas == pytest.approx((1, 0.6, 0.2))
    assert recording.reward_names == ("r",)
    assert recording.config == {"a": 1}
    written = [shard([PROMPTS[i] for i in part], n) for n, part in enumerate(batches(7, 3))]
    for step in range(3):
        expected = torch.cat([part.pictures[step] for part in written])
        assert torch.equal(recording.pictures(range(7), step), expected)
        assert torch.equal(recording.pictures([6, 0, 4, 0], step), expected[[6, 0, 4, 0]])
    scores = torch.cat([part.scores["r"] for part in written])
    assert torch.equal(recording.scores("r"), scores)
    assert torch.equal(recording.scores("r", [5, 1]), scores[[5, 1]])


def test_an_unknown_reward_names_the_known_ones(folder):
    with pytest.raises(ConfigError, match=r"no final scores of 'q'; it has r\. Record again"):
        Recording(folder).scores("q")


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (1, 5), (0, 2)])
def test_batches_cover_everything_once(count, size):
    found = list(batches(count, size))
    assert [index for part in found for index in part] == list(range(count))
    assert all(0 < len(part) <= size for part in found)


def test_another_config_is_refused_and_the_same_goes_on(folder):
    assert [RecordingWriter(folder, {"a": 1}).has(n) for n in range(4)] == [True, True, True, False]
    for other in ({"a": 2}, {}, {"a": 1, "b": None, "c": 3}):
        with pytest.raises(RunFolderError, match=r"holds a recording with another [ac]"):
            RecordingWriter(folder, other)
    assert json.loads((folder / INDEX).read_text()) == {"a": 1}


def test_a_config_is_the_same_after_its_round_trip_through_json(tmp_path):
    config = {"call": {"sizes": (16, 24), "guidance": 3.5}, "rewards": ("x", "y")}
    RecordingWriter(tmp_path, config)
    RecordingWriter(tmp_path, config)


def test_what_an_interrupted_write_left_is_removed(folder):
    (folder / ".gensift-dead.tmp").write_bytes(b"torn")
    RecordingWriter(folder, {"a": 1})
    assert not list(folder.glob(".gensift-*"))
    assert Recording(folder).prompts == tuple(PROMPTS)


def test_no_recording_and_no_shards(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no recording \(no recording.json\); run gensift record"
    ):
        Recording(tmp_path)
    RecordingWriter(tmp_path, {})
    with pytest.raises(ConfigError, match="no shard yet"):
        Recording(tmp_path)
    (tmp_path / INDEX).write_text("[1]")
    with pytest.raises(ConfigError, match="no JSON object; restore it"):
        Recording(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        RecordingWriter(tmp_path, {})


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_torn_shards_are_named(folder, number, size):
    file = folder / f"shard-{number:05d}.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ConfigError, match=rf"{file.name}' is damaged; delete it"):
        Recording(folder)


@pytest.mark.parametrize("number", [0, 1])
def test_files_that_are_no_shards_are_named(folder, number):
    file = folder / f"shard-{number:05d}.safetensors"
    for metadata in (None, {"prompts": "1"}, {"prompts": "{"}):
        save_file({"x": torch.zeros(2)}, file, metadata=metadata)
        with pytest.raises(ConfigError, match=rf"{file.name}' is no shard of a recording"):
            Recording(folder)


FOREIGN = {
    "other images": {"images": 3},
    "other steps": {"steps": 2},
    "other size": {"side": 5},
    "other reward": {"reward": "q"},
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("case", FOREIGN)
def test_shards_of_another_recording_are_named(folder, case, number):
    writer = RecordingWriter(folder, {"a": 1})
    writer.write(number, shard(PROMPTS[:3], **FOREIGN[case]))
    with pytest.raises(ConfigError, match=r"shard-0000\d\.safetensors' .*another recording"):
        Recording(folder)


@pytest.mark.parametrize("number", [0, 1])
def test_shards_that_lack_something_are_named(folder, number):
    file = folder / f"shard-{number:05d}.safetensors"
    tensors = load_file(file)
    for missing in tensors:
        rest = {key: value for key, value in tensors.items() if key != missing}
        save_file(rest, file, metadata={"prompts": json.dumps(PROMPTS[:3])})
        with pytest.raises(ConfigError, match=r"shard-0000\d\.safetensors"):
            Recording(folder)


def test_more_prompts_than_rows(folder):
    file = folder / "shard-00001.safetensors"
    save_file(load_file(file), file, metadata={"prompts": json.dumps(PROMPTS)})
    with pytest.raises(ConfigError, match=file.name):
        Recording(folder)


def test_a_folder_that_was_recorded_anew_is_read_anew(tmp_path):
    (tmp_path / "r").mkdir()
    for start in (0, 9):
        writer = RecordingWriter(tmp_path / "r", {})
        writer.write(0, shard(PROMPTS[:2], start))
        found = Recording(tmp_path / "r").pictures([0, 1], 0)
        assert torch.equal(found, shard(PROMPTS[:2], start).pictures[0])
        shutil.rmtree(tmp_path / "r")


def test_the_recording_made_by_hand_is_what_it_says(tmp_path):
    recording = inverted_recording(tmp_path, brightness_reward())
    everyone = range(len(recording.prompts))
    final = recording.pictures(everyone, 3).float() / 255
    for step in range(3):
        early = recording.pictures(everyone, step).float() / 255
        torch.testing.assert_close(early, 1 - final)
    torch.testing.assert_close(recording.scores("brightness"), final.mean((2, 3, 4)))
    assert recording.sigmas == pytest.approx(SIGMAS)
