"""Files of scores, good and bad."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gensift.errors import ConfigError
from samplers.tuning.recordings import RewardScores, ScoreTensors, read_scores

EARLY = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
FINAL = EARLY[:, :, 0] + 1


def test_all_formats_read_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", EARLY)
    np.savez(tmp_path / "b.npz", scores=EARLY)
    np.savez(tmp_path / "c.npz", early=EARLY, final=EARLY[:, :, -1])
    save_file({"early": EARLY}, tmp_path / "d.safetensors")
    for file in sorted(tmp_path.iterdir()):
        read = read_scores(file)
        (part,) = read.rewards.values()
        np.testing.assert_array_equal(part.early, EARLY)
        np.testing.assert_array_equal(part.final, EARLY[:, :, -1])
        assert (read.num_prompts, read.num_images, read.num_steps) == (3, 5, 4)


def test_several_rewards_sigmas_and_prompts(tmp_path: Path) -> None:
    sigmas, prompts = np.linspace(1, 0.25, 4), ["a", "b", "c"]
    arrays = {"x/early": EARLY, "x/final": FINAL, "clip/score/early": EARLY, "sigmas": sigmas}
    np.savez(tmp_path / "a.npz", prompts=np.array(prompts), **arrays)
    metadata = {"prompts": '["a", "b", "c"]'}
    save_file(arrays, tmp_path / "b.safetensors", metadata=metadata)
    for name in ("a.npz", "b.safetensors"):
        read = read_scores(tmp_path / name)
        assert set(read.rewards) == {"x", "clip/score"}
        np.testing.assert_array_equal(read.rewards["x"].final, FINAL)
        assert read.prompts == tuple(prompts) and read.sigmas == tuple(sigmas)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"early": EARLY[0]}, r"`early` has the shape \(5, 4\); give \(prompts, images, steps\)"),
        ({"early": EARLY, "final": FINAL[:2]}, r"give \(3, 5\) final scores"),
        ({"early": EARLY[:, :, :1]}, "pruning needs at least two"),
        ({"early": EARLY[:, :0]}, "none of them 0"),
        ({"early": EARLY, "finale": FINAL}, "`finale` is not known. Nearest: 'final'"),
        ({"final": FINAL}, "`final` has no `early`"),
        ({"x/final": FINAL}, "`x/final` has no `x/early`"),
        ({"sigmas": np.ones(4)}, "there are no scores"),
        ({"early": EARLY, "scores": EARLY}, "give one of them"),
        ({"early": EARLY, "sigmas": np.ones(3)}, "3 sigmas are for 4 steps"),
        ({"early": EARLY, "prompts": np.array(["a"])}, "1 texts are for 3 prompts"),
        ({"early": EARLY > 0}, "holds bool; give real numbers"),
        ({"early": EARLY, "final": FINAL * np.nan}, "prompt 0 .* has no finite final score"),
        ({"x/early": EARLY, "y/early": EARLY[:, :3]}, "the same shape for each"),
    ],
)
def test_bad_arrays_are_named_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], problem: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_scores(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", early=objects)
    np.save(tmp_path / "b.npy", objects)
    for name in ("a.npz", "b.npy"):
        with pytest.raises(ConfigError, match="pickle"):
            read_scores(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.safetensors"])
def test_files_that_are_absent_or_damaged_say_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="do not exist"):
        read_scores(tmp_path / name)
    for content in (b"", b"nonsense" * 10):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot be read|damaged"):
            read_scores(tmp_path / name)


def test_other_kinds_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.npz, \.safetensors, \.npy"):
        read_scores(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="is a folder"):
        read_scores(tmp_path)


def test_broken_scores_are_counted_and_worth_the_worst() -> None:
    early, final = EARLY.copy(), FINAL.copy()
    early[0, 0, 0], final[1, 2], final[1, 3] = np.nan, np.nan, np.inf
    tensors = ScoreTensors.single(early, final)
    assert tensors.not_finite == 3
    worst = np.delete(FINAL[1], [2, 3]).min()
    assert tensors.values()[1, 2] == tensors.values()[1, 3] == worst


def test_several_rewards_are_worth_their_mean_rank() -> None:
    def part(*final: float) -> RewardScores:
        return RewardScores.of(np.zeros((1, 3, 2)), [list(final)])

    tensors = ScoreTensors({"a": part(1, 2, 3), "b": part(900, 900, 100)})
    # Ranks 0, 1, 2 and 1.5, 1.5, 0, each divided by 2.
    np.testing.assert_allclose(tensors.values(), [[0.375, 0.625, 0.5]])
