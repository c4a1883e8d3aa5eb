import math

import pytest
import torch
from helpers.noise_aware import (
    SHORT,
    SIGMAS,
    STORAGES,
    ToyReward,
    assert_same_state,
    brightness_reward,
    inverted_recording,
    state_of,
    toy_reward,
    trained,
)

from apps.training.noise_aware.training import (
    NoiseAwareTraining,
    Phase,
    distillation_loss,
    phases,
    split_prompts,
    train,
    trainable_weights,
)
from gensift.errors import ConfigError
from rewards.noise_aware.reward import NoiseAwareReward

from .conftest import BASES


def ranking(reward, recording, prompts, step):
    """Mean within-prompt Kendall tau of early scores and final ones, pair by pair."""
    taus = []
    for index in prompts:
        pictures = recording.pictures([index], step)[0].float() / 255
        scores = reward.at_sigma(recording.sigmas[step])(pictures, ["x"] * len(pictures))
        final = recording.scores(reward.name, [index])[0]
        signs = [
            torch.sign((scores[i] - scores[j]) * (final[i] - final[j]))
            for i in range(len(final))
            for j in range(i)
            if final[i] != final[j]
        ]
        taus.append(torch.stack(signs).mean())
    return float(torch.stack(taus).mean())


class AsIs:
    """The base, asked about early estimates as if they were finished."""

    def __init__(self, base):
        self.base, self.name = base, base.name

    def at_sigma(self, sigma):
        return self.base


# ------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_trained_is_what_the_score_depends_on(base_reward, pictures):
    found = trainable_weights(base_reward)
    network = base_reward.model
    scores = base_reward(pictures, ["a red circle"] * 3)
    for name, value in network.named_parameters():
        kept = value.detach().clone()
        with torch.no_grad():
            value += torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
            matters = not torch.equal(base_reward(pictures, ["a red circle"] * 3), scores)
            value.copy_(kept)
        # A bias of attention keys shifts all logits alike, so only rounding sees it.
        assert matters <= (name in found), name
        assert name in found or not matters
    for name, value in found.items():
        assert value.data_ptr() == network.get_parameter(name).data_ptr()


@pytest.mark.parametrize("base_reward", ["clip-score", "pickscore", "hpsv2"], indirect=True)
def test_the_text_tower_is_left_out(base_reward):
    words = ("text", "transformer.resblocks", "token_embedding", "ln_final", "logit_scale")
    found = trainable_weights(base_reward)
    own = dict(base_reward.model.named_parameters())
    left = own.keys() - found.keys()
    assert found and left
    vision = {name for name in own if "vis" in name}
    assert found.keys() == vision
    assert all(any(word in name for word in (*words, "positional")) for name in left)


@pytest.mark.parametrize("base_reward", ["imagereward"], indirect=True)
def test_of_imagereward_everything_is_trained(base_reward):
    assert (
        trainable_weights(base_reward).keys() == dict(base_reward.model.named_parameters()).keys()
    )


def test_weights_without_part_in_the_score_are_left_out():
    found = trainable_weights(toy_reward())
    assert found.keys() == {"first.weight", "first.bias", "shift", "kernel", "temperature"}


def test_rewards_that_stop_gradients_are_refused():
    class Deaf(ToyReward):
        def __call__(self, images, prompts, /):
            with torch.no_grad():
                return super().__call__(images, prompts)

    with pytest.raises(ConfigError, match="'toy' is not differentiable"):
        trainable_weights(Deaf(toy_reward().model))


def test_asking_what_is_trained_changes_nothing():
    reward = toy_reward()
    before = state_of(reward.model)
    trainable_weights(reward)
    assert_same_state(before, state_of(reward.model))
    assert reward.differentiable is False


# ----------------------------------------------------------------- loss, curriculum, split


def test_the_loss_by_loops():
    generator = torch.Generator().manual_seed(0)
    predicted, label = (torch.randn(3, 4, generator=generator) for _ in range(2))
    label[1, 2] = label[1, 0]  # equally good: no order to learn
    for weight in (0.0, 1.0, 2.5):
        squares = [float(predicted[p, i] - label[p, i]) ** 2 for p in range(3) for i in range(4)]
        pairs = []
        for p in range(3):
            for better in range(4):
                for worse in range(4):
                    if label[p, better] > label[p, worse]:
                        lead = float(predicted[p, better] - predicted[p, worse])
                        # Cross-entropy of a Bradley-Terry model with temperature 0.5.
                        pairs.append(-math.log(1 / (1 + math.exp(-lead / 0.5))))
        assert len(pairs) == 3 * 6 - 1
        expected = sum(squares) / 12 + weight * sum(pairs) / len(pairs)
        found = distillation_loss(predicted, label, weight)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_order_does_not_depend_on_a_prompts_level_and_needs_two_pictures():
    label = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[1.0], [2.0], [3.0]])
    order = [
        float(distillation_loss(p, label, 1.0) - distillation_loss(p, label, 0.0))
        for p in (label, label + shift)
    ]
    assert order[0] == pytest.approx(order[1], abs=1e-5)
    assert float(distillation_loss(label + shift, label, 0.0)) == pytest.approx(14 / 3)
    assert float(distillation_loss(-label, label, 1.0)) > float(
        distillation_loss(label, label, 1.0)
    )
    alone = torch.ones(3, 1)
    assert float(distillation_loss(alone, alone, 1.0)) == 0


@pytest.mark.parametrize("base_reward", ["clip-score"], indirect=True)
def test_the_loss_across_prompts_by_hand(base_reward, tmp_path):
    recording = inverted_recording(tmp_path / "recording", base_reward)
    config = NoiseAwareTraining(
        **SHORT | {"steps_per_phase": 1, "batch_prompts": 6, "held_out": 0.5, "until": 0.25},
        across_prompts=1.5,
    )
    losses = []
    train(
        base_reward,
        recording,
        tmp_path / "out",
        config,
        on_step=lambda done, total, loss: losses.append(loss),
    )
    chosen, _ = split_prompts(recording, 0.5)
    assert len(chosen) == 6  # the batch is all of them
    labels = recording.scores(base_reward.name)
    mean, deviation = labels[chosen].mean(), labels[chosen].std(correction=0)
    predicted, wanted = ([] for _ in range(2))
    for target, step in ((predicted, 0), (wanted, recording.num_steps - 1)):
        for index in chosen:
            pictures = recording.pictures([index], step)[0].float() / 255
            for prompt in chosen:
                texts = [recording.prompts[prompt]] * len(pictures)
                target.append((base_reward(pictures, texts) - mean) / deviation)
    squared = (torch.stack(predicted) - torch.stack(wanted)).square().mean()
    # A prompt's own pictures count once more, as without other prompts.
    own = torch.stack(predicted).view(6, 6, -1)[range(6), range(6)]
    label = (labels[chosen] - mean) / deviation
    expected = distillation_loss(own, label, config.within_prompt) + 1.5 * squared
    assert losses[0] == pytest.approx(float(expected), rel=1e-4)


def test_rewards_that_see_pairs_only_are_not_asked_across_prompts(recording, tmp_path):
    config = NoiseAwareTraining(**SHORT, across_prompts=1.0)
    with pytest.raises(ConfigError, match="cannot score a picture against many prompts"):
        train(brightness_reward(), recording, tmp_path / "out", config)


def test_the_curriculum_goes_from_clean_to_noisy_and_ends_with_all():
    config = NoiseAwareTraining(steps_per_phase=7, joint_steps=9)
    assert phases(3, config) == [Phase(2, 7), Phase(1, 7), Phase(0, 7), Phase(None, 9)]
    assert phases(1, NoiseAwareTraining(steps_per_phase=7)) == [Phase(0, 7)]


def watched(recording, monkeypatch):
    """The step index and prompts of every batch that training reads."""
    seen, read = [], recording.pictures

    def pictures(prompts, step):
        seen.append((step, tuple(prompts)))
        return read(prompts, step)

    monkeypatch.setattr(recording, "pictures", pictures)
    return seen


@pytest.mark.parametrize("storage", STORAGES)
def test_batches_follow_the_curriculum(storage, recording, tmp_path, monkeypatch):
    seen = watched(recording, monkeypatch)
    config = NoiseAwareTraining(storage=storage, **SHORT | {"steps_per_phase": 20}, joint_steps=30)
    train(brightness_reward(), recording, tmp_path / "out", config)
    steps = [step for step, _ in seen]
    assert len(steps) == 90
    for phase, own in enumerate((2, 1, 0)):
        part = steps[20 * phase : 20 * phase + 20]
        if storage == "sigma-adapter":  # rehearses cleaner steps half of the time
            assert set(part) <= set(range(own, 3)) and 8 <= part.count(own) < 20 + own
        else:
            assert set(part) == {own}
    assert set(steps[60:]) == {0, 1, 2}
    trained, held_out = split_prompts(recording, config.held_out)
    drawn = {prompt for _, prompts in seen for prompt in prompts}
    assert drawn == set(trained) and not drawn & set(held_out)
    assert all(len(set(prompts)) == 2 for _, prompts in seen)


def test_equal_prompts_are_on_one_side_of_the_split(tmp_path):
    texts = [f"p{number % 7}" for number in range(30)]
    recording = inverted_recording(tmp_path, brightness_reward(), prompts=texts, images=2)
    for share in (0.1, 0.3, 0.5, 0.9):
        trained, held_out = split_prompts(recording, share)
        assert sorted(trained + held_out) == list(range(30))
        assert not {texts[i] for i in trained} & {texts[i] for i in held_out}
        assert len({texts[i] for i in held_out}) == round(7 * share)
    assert split_prompts(recording, 0.3) == split_prompts(recording, 0.3)
    assert split_prompts(recording, 0.0) == (list(range(30)), [])


def test_too_few_prompts_for_a_split(tmp_path):
    recording = inverted_recording(tmp_path, brightness_reward(), prompts=["a", "a"])
    for share in (0.1, 0.9):
        with pytest.raises(ConfigError, match="1 different prompts cannot be split"):
            split_prompts(recording, share)


# ------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("storage", "rate"), [("sigma-adapter", 2e-2), ("lora", 2e-2), ("full", 2e-2)]
)
def test_it_learns_that_early_pictures_are_negatives(storage, rate, recording, tmp_path):
    base = brightness_reward()
    before = state_of(base.model)
    config = NoiseAwareTraining(
        storage=storage, rank=2, steps_per_phase=80, learning_rate=rate, held_out=0.34
    )
    weights = train(base, recording, tmp_path / "out", config)
    reward = NoiseAwareReward(base, weights)
    _, held_out = split_prompts(recording, config.held_out)
    assert len(held_out) == 4
    for step in range(3):
        assert ranking(AsIs(base), recording, held_out, step) == -1
        assert ranking(reward, recording, held_out, step) > 0.9
        # Not only the order: the final score itself.
        early = recording.pictures(held_out, step).flatten(0, 1).float() / 255
        scores = reward.at_sigma(SIGMAS[step])(early, ["x"] * len(early))
        labels = recording.scores("brightness", held_out).flatten()
        plain = base(early, ["x"] * len(early))
        assert (scores - labels).abs().mean() < 0.75 * (plain - labels).abs().mean()
    assert weights.sigmas == recording.sigmas[:3]
    assert reward.at_sigma(0.02) is base
    assert_same_state(before, state_of(base.model))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_every_base_reward_trains_a_step_and_stays_as_it_was(base_reward, storage, tmp_path):
    before = state_of(base_reward.model)
    prompts = ["a red circle", "two blue circle", "a blue circle"]
    recording = inverted_recording(
        tmp_path / "recording", base_reward, prompts=prompts, images=2, sigmas=(0.9, 0.4)
    )
    config = NoiseAwareTraining(
        storage=storage, rank=2, steps_per_phase=1, learning_rate=1e-2, held_out=0.0
    )
    losses = []
    weights = train(
        base_reward,
        recording,
        tmp_path / "out",
        config,
        on_step=lambda done, total, loss: losses.append((done, total, loss)),
    )
    assert [(done, total) for done, total, _ in losses] == [(1, 1)]
    assert_same_state(before, state_of(base_reward.model))
    assert base_reward.differentiable is False
    base = dict(base_reward.model.named_parameters())
    changed = weights.applied(base, 0.9)
    assert any(not torch.equal(changed[name], base[name]) for name in changed)
    early = recording.pictures([0], 0)[0].float() / 255
    scores = NoiseAwareReward(base_reward, weights).at_sigma(0.9)(early, prompts[:1] * 2)
    assert scores.isfinite().all()


def test_a_base_that_wants_gradients_gets_none(recording, tmp_path):
    base = brightness_reward()
    base.model.requires_grad_(True).train()
    before = state_of(base.model)
    train(base, recording, tmp_path / "out", NoiseAwareTraining(**SHORT))
    assert_same_state(before, state_of(base.model))


def test_a_network_with_weights_that_adapters_leave_out_gets_no_gradients(tmp_path):
    base = toy_reward()
    recording = inverted_recording(tmp_path / "recording", base)
    before = state_of(base.model)
    train(base, recording, tmp_path / "out", NoiseAwareTraining(**SHORT))
    assert_same_state(before, state_of(base.model))


def test_the_base_is_left_alone_when_training_is_interrupted(recording, tmp_path):
    base = brightness_reward()
    before = state_of(base.model)

    def stop(done, total, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, recording, tmp_path / "out", NoiseAwareTraining(**SHORT), on_step=stop)
    assert_same_state(before, state_of(base.model))
    assert base.differentiable is False


def test_the_callers_random_numbers_are_left_alone(recording, tmp_path):
    base = brightness_reward()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(base, recording, tmp_path / "out", NoiseAwareTraining(**SHORT))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_noisier_steps_begin_where_cleaner_ones_ended(storage, recording, tmp_path):
    """With a rate of zero after the first phase nothing else happens, so all steps are equal."""
    weights = trained(recording, tmp_path / "out", storage, learning_rate=0.0)
    base = dict(brightness_reward().model.named_parameters())
    for sigma in SIGMAS[:3]:
        found = weights.applied(base, sigma)
        assert all(torch.equal(found[name], base[name]) for name in base)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_labels_that_are_not_finite_are_refused(label, place, recording, tmp_path, monkeypatch):
    scores = recording.scores("brightness").clone()
    scores[place, 2] = label
    monkeypatch.setattr(recording, "scores", lambda reward: scores)
    with pytest.raises(ConfigError, match="not finite; record again"):
        train(brightness_reward(), recording, tmp_path / "out", NoiseAwareTraining(**SHORT))


def test_equal_labels_are_no_division_by_zero(recording, tmp_path, monkeypatch):
    scores = torch.full_like(recording.scores("brightness"), 0.5)
    monkeypatch.setattr(recording, "scores", lambda reward: scores)
    losses = []
    train(
        brightness_reward(),
        recording,
        tmp_path / "out",
        NoiseAwareTraining(**SHORT),
        on_step=lambda done, total, loss: losses.append(loss),
    )
    assert all(torch.tensor(losses).isfinite())


def test_a_reward_that_was_not_recorded_is_refused(recording, tmp_path):
    with pytest.raises(ConfigError, match="no final scores of 'toy'"):
        train(toy_reward(), recording, tmp_path / "out", NoiseAwareTraining(**SHORT))


@pytest.mark.parametrize("storage", STORAGES)
def test_solvers_that_visit_a_noise_level_twice(storage, tmp_path):
    """PNDM does, and is what Stable Diffusion 1.5 comes with."""
    base = brightness_reward()
    sigmas = (0.9, 0.7, 0.7, 0.4, 0.2)
    recording = inverted_recording(tmp_path / "recording", base, sigmas=sigmas)
    config = NoiseAwareTraining(
        storage=storage, rank=2, steps_per_phase=60, learning_rate=2e-2, held_out=0.34
    )
    weights = train(base, recording, tmp_path / "out", config)
    assert weights.sigmas == pytest.approx((0.9, 0.7, 0.4))
    _, held_out = split_prompts(recording, config.held_out)
    for step in range(4):
        assert ranking(NoiseAwareReward(base, weights), recording, held_out, step) > 0.9


def test_sigmas_that_rise_are_refused(tmp_path):
    base = brightness_reward()
    recording = inverted_recording(tmp_path / "recording", base, sigmas=(0.5, 0.7, 0.4))
    with pytest.raises(ConfigError, match="give falling noise levels"):
        train(base, recording, tmp_path / "out", NoiseAwareTraining(**SHORT))


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (0.25, 1.0, [1, 2]),
        (0.25, 0.5, [1]),
        (0.5, 1.0, [2]),
    ],
)
def test_what_lies_before_since_is_left_to_the_original(
    since, until, expected, recording, tmp_path, monkeypatch
):
    seen = watched(recording, monkeypatch)
    base = brightness_reward()
    config = NoiseAwareTraining(**SHORT, since=since, until=until)
    weights = train(base, recording, tmp_path / "out", config)
    assert {step for step, _ in seen} == set(expected)
    assert weights.sigmas == tuple(recording.sigmas[step] for step in expected)
    assert NoiseAwareReward(base, weights).at_sigma(1.0) is base


@pytest.mark.parametrize(
    ("since", "until"),
    [(0.9, 1.0), (0.3, 0.35)],  # only the finished picture is there; both round to one step
)
def test_a_range_without_a_step_is_refused(since, until, recording, tmp_path):
    config = NoiseAwareTraining(**SHORT, since=since, until=until)
    with pytest.raises(ConfigError, match="None of the 4 recorded steps lies between `since`"):
        train(brightness_reward(), recording, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("since", [0.5, 0.6])
def test_since_comes_before_until(since):
    with pytest.raises(ConfigError, match="`since` must be the smaller"):
        NoiseAwareTraining(since=since, until=0.5)


@pytest.mark.parametrize("until", [0.05, 0.5, 0.75, 1.0])
def test_the_finished_picture_is_never_an_input(until, recording, tmp_path, monkeypatch):
    seen = watched(recording, monkeypatch)
    config = NoiseAwareTraining(**SHORT, until=until)
    weights = train(brightness_reward(), recording, tmp_path / "out", config)
    count = {0.05: 1, 0.5: 2, 0.75: 3, 1.0: 3}[until]
    assert {step for step, _ in seen} == set(range(count))
    assert weights.sigmas == recording.sigmas[:count]
