import math

import pytest
import torch
from helpers.noise_aware import SIGMAS, toy_reward

from gensift.errors import ConfigError
from rewards.noise_aware.weights import (
    SigmaAdapter,
    StepAdapters,
    continue_from_cleaner,
    make_weights,
)

STORAGES = ("sigma-adapter", "lora", "full")
BASE = {
    "block.matrix": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    "block.vector": torch.randn(4, generator=torch.Generator().manual_seed(1)),
}


def fresh(storage, base=BASE, sigmas=SIGMAS, rank=2):
    torch.manual_seed(3)
    return make_weights(storage, base, sigmas, rank)


def randomised(weights):
    """The same weights with nothing left at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in weights.parameters():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    return weights


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sigma", [1.0, 0.77, 0.2, 0.0])
def test_fresh_weights_change_nothing(storage, sigma):
    found = fresh(storage).applied(BASE, sigma)
    assert found.keys() == BASE.keys()
    assert all(torch.equal(found[name], BASE[name]) for name in BASE)


def test_the_sigma_adapter_is_w_plus_b_diag_g_a():
    weights = randomised(fresh("sigma-adapter"))
    for sigma in (0.95, 0.5, 0.3):
        # The embedding anew: sines and cosines of arctanh-free half log SNR over [-4, 4].
        place = max(-1.0, min(1.0, math.log((1 - sigma) / sigma) / 4))
        angles = [place * math.pi / 2 * 2 ** (i / 2) for i in range(8)]
        embedding = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        state = weights.state_dict()
        for layer in (0, 2):
            weight, bias = state[f"embed.{layer}.weight"], state[f"embed.{layer}.bias"]
            embedding = weight @ embedding + bias
            embedding = embedding * embedding.sigmoid()
        found = weights.applied(BASE, sigma)
        for name, value in BASE.items():
            key = name.replace(".", "/")
            gate = state[f"gates.{key}.weight"] @ embedding + state[f"gates.{key}.bias"]
            if value.ndim == 2:
                change = state[f"up.{key}"] @ torch.diag(gate) @ state[f"down.{key}"]
            else:
                change = state[f"up.{key}"] @ gate
            assert change.abs().max() > 0.01
            torch.testing.assert_close(found[name], value + change, rtol=0, atol=1e-5)


def test_the_sigma_adapter_is_smooth_and_finite_up_to_both_ends():
    weights = randomised(fresh("sigma-adapter"))
    levels = torch.linspace(0, 1, 2001).tolist()
    with torch.no_grad():
        matrices = torch.stack([weights.applied(BASE, s)["block.matrix"] for s in levels])
    assert matrices.isfinite().all()
    assert matrices.diff(dim=0).abs().max() < 0.1 * (matrices.amax(0) - matrices.amin(0)).max()


def test_step_adapters_are_w_plus_b_a_of_the_nearest_step():
    weights = randomised(fresh("lora"))
    for sigma, step in ((1.0, 0), (0.91, 0), (0.89, 1), (0.5, 2), (0.0, 3)):
        state = weights.steps[step].state_dict()
        found = weights.applied(BASE, sigma)
        change = state["up.block/matrix"] @ state["down.block/matrix"]
        torch.testing.assert_close(found["block.matrix"], BASE["block.matrix"] + change)
        vector = BASE["block.vector"] + state["up.block/vector"].flatten()
        torch.testing.assert_close(found["block.vector"], vector)
        assert torch.linalg.matrix_rank(change) == 2


def test_full_weights_are_those_of_the_nearest_step():
    weights = randomised(fresh("full"))
    for sigma, step in ((0.91, 0), (0.89, 1), (0.21, 3)):
        found = weights.applied(BASE, sigma)
        for name in BASE:
            assert torch.equal(found[name], weights.steps[step][name.replace(".", "/")])


@pytest.mark.parametrize("storage", STORAGES)
def test_applied_weights_have_the_dtype_of_the_base(storage):
    half = {name: value.half() for name, value in BASE.items()}
    found = fresh(storage, half).applied(half, 0.5)
    assert {value.dtype for value in found.values()} == {torch.float16}
    assert all(torch.equal(found[name], half[name]) for name in half)


@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_reach_every_part_that_is_in_use(storage):
    weights = randomised(fresh(storage))
    for step, sigma in enumerate(SIGMAS):
        weights.zero_grad(set_to_none=True)
        sum(value.sin().sum() for value in weights.applied(BASE, sigma).values()).backward()
        own = [name for name, _ in weights.named_parameters()]
        if storage != "sigma-adapter":
            own = [name for name in own if name.startswith(f"steps.{step}.")]
        reached = {
            name for name, p in weights.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert reached == set(own)


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_of_all_shapes_of_a_network(storage):
    network = toy_reward().model
    base = dict(network.named_parameters())
    found = fresh(storage, base).applied(base, 0.5)
    low_rank = {name for name, value in base.items() if value.ndim in (1, 2)}
    assert found.keys() == (base.keys() if storage == "full" else low_rank)
    assert all(found[name].shape == base[name].shape for name in found)
    assert all(torch.equal(found[name], base[name]) for name in found)


@pytest.mark.parametrize(
    ("sigmas", "inside", "outside"),
    [
        # The largest gap is 0.3, so half a step is 0.15.
        ((1.0, 0.8, 0.5, 0.2), (1.0, 0.06, 0.2, 0.051), (0.049, 0.0, math.nan)),
        ((0.9, 0.7), (0.999, 0.601), (1.01, 0.599, -math.inf, math.inf)),
        ((0.5,), (0.5, 0.509, 0.491), (0.511, 0.489)),
    ],
)
def test_what_is_covered_reaches_half_a_step_beyond(sigmas, inside, outside):
    weights = fresh("lora", sigmas=sigmas)
    assert [weights.covers(sigma) for sigma in inside] == [True] * len(inside)
    assert [weights.covers(sigma) for sigma in outside] == [False] * len(outside)


def test_the_nearest_step_by_brute_force():
    weights = fresh("lora")
    for sigma in torch.linspace(0, 1, 101).tolist():
        gaps = [abs(level - sigma) for level in SIGMAS]
        assert gaps[weights.nearest(sigma)] == min(gaps)
    assert weights.nearest(0.9) == 0  # of two equally near the noisier


@pytest.mark.parametrize("sigmas", [(), (0.5, 0.8), (0.5, 0.5), (1.1, 0.5), (0.5, -0.1)])
def test_sigmas_must_fall_within_their_range(sigmas):
    for storage in STORAGES:
        with pytest.raises(ConfigError, match="give falling noise levels"):
            fresh(storage, sigmas=sigmas)


def test_unknown_storage():
    with pytest.raises(ConfigError, match="'dora'; allowed: sigma-adapter, lora, full"):
        fresh("dora")


@pytest.mark.parametrize("storage", ["lora", "full"])
def test_a_step_begins_where_the_cleaner_one_ended(storage):
    weights = randomised(fresh(storage))
    noisier, cleaner = SIGMAS[1], SIGMAS[2]
    before = weights.applied(BASE, SIGMAS[0])
    continue_from_cleaner(weights, 1)
    for name in BASE:
        now = weights.applied(BASE, noisier)[name]
        assert torch.equal(now, weights.applied(BASE, cleaner)[name])
        assert torch.equal(weights.applied(BASE, SIGMAS[0])[name], before[name])
    with torch.no_grad():  # a copy, not the same weights
        for value in weights.steps[1].parameters():
            value += 1
    assert not torch.equal(weights.applied(BASE, noisier)["block.matrix"], now)
    assert not torch.allclose(
        weights.applied(BASE, noisier)["block.matrix"],
        weights.applied(BASE, cleaner)["block.matrix"],
    )


def test_the_cleanest_step_and_shared_weights_have_nothing_to_begin_from():
    for storage, step in (("lora", len(SIGMAS) - 1), ("full", len(SIGMAS) - 1), ("lora", 9)):
        weights = randomised(fresh(storage))
        before = {key: value.clone() for key, value in weights.state_dict().items()}
        continue_from_cleaner(weights, step)
        assert all(torch.equal(before[key], v) for key, v in weights.state_dict().items())
    shared = randomised(fresh("sigma-adapter"))
    before = {key: value.clone() for key, value in shared.state_dict().items()}
    continue_from_cleaner(shared, 0)
    assert all(torch.equal(before[key], value) for key, value in shared.state_dict().items())


def test_storages_are_what_they_say():
    assert isinstance(fresh("sigma-adapter"), SigmaAdapter)
    assert isinstance(fresh("lora"), StepAdapters)
    assert [fresh(storage).storage for storage in STORAGES] == list(STORAGES)
