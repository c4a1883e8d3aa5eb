"""Clusters with known answers, and the cases that crash the published code."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from samplers.autoregressive.clustering import choose_by_cluster, features, k_means


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(points: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(points, centres).amin(1).square().sum())


def best_spread(points: Tensor, count: int) -> float:
    """The least sum of squares over all ways to label the points."""
    labels = torch.tensor(list(product(range(count), repeat=len(points))))
    members = (labels[:, None] == torch.arange(count)[:, None]).to(points)
    sums, sizes = members @ points, members.sum(-1).clamp(min=1)
    # Within clusters, squares about the mean are squares less those of the mean.
    totals = points.square().sum() - (sums.square().sum(-1) / sizes).sum(-1)
    return float(totals.min())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_k_means_finds_the_best_clusters_of_few_points(seed: int, count: int) -> None:
    points = torch.randn(8, 2, generator=generator(seed), dtype=torch.float64)
    found = spread(points, k_means(points, count, generator(seed)))
    assert found == pytest.approx(best_spread(points, count), rel=0.02)


def test_one_of_each_cluster_nearest_to_its_centre() -> None:
    points = torch.tensor([[0.0], [1.0], [2.5], [100.0], [101.0], [200.0]], dtype=torch.float64)
    choice = choose_by_cluster(points, 3, generator())
    # Centres 3.5 / 3, 100.5 and 200; of two equally near ones the first.
    assert choice.chosen == [1, 3, 5]
    assert choice.closeness == pytest.approx(
        [-3.5 / 3, -0.5 / 3, -4 / 3, -0.5, -0.5, 0.0], abs=1e-6
    )


def test_duplicates_fill_the_places_with_the_farthest() -> None:
    points = torch.tensor([[0.0], [0.0], [0.0], [10.0], [10.0]], dtype=torch.float64)
    choice = choose_by_cluster(points, 4, generator())
    assert len(set(choice.chosen)) == 4
    assert {float(points[at]) for at in choice.chosen} == {0.0, 10.0}


@pytest.mark.parametrize("size", [1, 3, 6])
def test_all_alike_is_no_crash(size: int) -> None:
    choice = choose_by_cluster(torch.zeros(6, 4, dtype=torch.float64), size, generator())
    assert len(set(choice.chosen)) == size


def test_as_many_clusters_as_points_keeps_all() -> None:
    points = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    assert choose_by_cluster(points, 5, generator()).chosen == [0, 1, 2, 3, 4]


def layout(strong: list[int], scale: float, noise: int) -> Tensor:
    """Tokens of a picture in which one thing, a direction of channels, is at some places."""
    direction = torch.tensor([0.6, -0.8, 0.0, 0.0])
    tokens = 0.01 * torch.randn(6, 4, generator=generator(noise))
    tokens[strong] += scale * direction
    return tokens


def test_pca_sees_where_things_are() -> None:
    left, right = [0, 1], [4, 5]
    tokens = torch.stack([layout(left, 1.0, 1), layout(right, 1.0, 2), layout(left, 1.0, 3)])
    points = features(tokens, "pca")
    assert points.shape == (3, 6)
    distances = torch.cdist(points, points)
    assert distances[0, 2] < 0.2 * distances[0, 1]


def test_equal_layouts_never_end_up_opposite() -> None:
    """Each picture's component is an eigenvector, whose sign is arbitrary; here it is fixed."""
    tokens = torch.stack([layout([0, 1], 1.0 + 0.01 * n, n) for n in range(12)])
    points = features(tokens, "pca")
    assert (points @ points[0] > 0).all()


@pytest.mark.parametrize(("count", "channels"), [(7, 5), (5, 7)])
def test_pca_is_that_of_the_covariance(count: int, channels: int) -> None:
    tokens = torch.randn(2, count, channels, generator=generator(), dtype=torch.float64)
    points = features(tokens, "pca")
    for picture, point in zip(tokens, points, strict=True):
        centred = picture - picture.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        expected = centred @ vectors[:, -1]
        assert min((point - expected).abs().max(), (point + expected).abs().max()) < 1e-9
        assert point.square().sum() == pytest.approx(float(values[-1]))


@pytest.mark.parametrize("channels", [5, 30])
def test_shared_pca_is_that_of_all_tokens_together(channels: int) -> None:
    tokens = torch.randn(3, 7, channels, generator=generator(), dtype=torch.float64)
    centred = (tokens - tokens.mean((0, 1))).flatten(0, 1)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    expected = (centred @ vectors[:, -1]).view(3, 7)
    found = features(tokens, "shared-pca")
    assert min((found - expected).abs().max(), (found + expected).abs().max()) < 1e-9


@pytest.mark.parametrize("channels", [5, 30])
def test_pictures_without_contrast_have_no_layout(channels: int) -> None:
    points = features(torch.ones(2, 7, channels), "pca")
    assert torch.equal(points, torch.zeros(2, 7, dtype=torch.float64))


def test_pool_is_the_mean_token() -> None:
    tokens = torch.randn(2, 7, 5, generator=generator())
    assert torch.allclose(features(tokens, "pool"), tokens.double().mean(1))
