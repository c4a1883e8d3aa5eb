"""Choosing candidates that differ: k-means on features of half-drawn pictures.

Source: TTS-VAR, arXiv 2507.18537, section 4.2. Unlike the published code, principal components have
a fixed sign, and fewer different pictures than clusters are no crash.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from samplers.autoregressive.config import Feature

RESTARTS, MAX_ROUNDS = 10, 100
RESOLUTION = 1e-4
"""Of a feature, as a share of the largest; finer differences are taken for rounding."""
TIE = 10
"""Differences of distances that are taken for rounding, in units of that."""


@dataclass(frozen=True)
class ClusterChoice:
    """Who stands for the clusters.

    Attributes:
        chosen: ascending indices, one per cluster.
        closeness: of every picture, minus the distance to the centre of its cluster.
    """

    chosen: list[int]
    closeness: list[float]


def features(tokens: Tensor, kind: Feature) -> Tensor:
    """One feature per picture, float64 `(pictures, features)`.

    - pca: where the picture's own first principal component is strong, one number per token;
    - shared-pca: the same with the first component of all pictures together;
    - pool: the mean over the tokens.

    Args:
        tokens: of an embedding, `(pictures, tokens, channels)`.
        kind: one of these.
    """
    tokens = tokens.double().cpu()
    if kind == "pool":
        return tokens.mean(1)
    # Without the mean over everything, the first component would be that mean.
    shared = _first_component((tokens - tokens.mean((0, 1))).flatten(0, 1)[None])[0]
    if kind == "shared-pca":
        return (tokens - tokens.mean((0, 1))) @ shared
    centred = tokens - tokens.mean(1, keepdim=True)
    components = _first_component(centred)
    # A component has no sign of its own; equal layouts must not end up opposite to each other.
    signs = torch.where((components @ shared) < 0, -1.0, 1.0)
    return torch.einsum("ptc,pc->pt", centred, components * signs[:, None].double())


def _first_component(rows: Tensor) -> Tensor:
    """First right-singular vector of `(batch, rows, channels)`, `(batch, channels)`.

    It comes from the smaller of the two Gram matrices: a whole singular value decomposition of
    DINOv2's tokens takes several times as long, and float64 has digits to spare.
    """
    if rows.shape[1] < rows.shape[2]:
        left = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -1:]
        return normalize((rows.mT @ left)[..., 0], dim=-1)
    right: Tensor = torch.linalg.eigh(rows.mT @ rows).eigenvectors[..., -1]
    return right


def choose_by_cluster(points: Tensor, size: int, generator: torch.Generator) -> ClusterChoice:
    """The member of each of `size` clusters that lies nearest to its centre.

    Where fewer than `size` points differ, places that no cluster fills go to those farthest from
    all chosen ones.

    Args:
        points: float64 `(pictures, features)`, at least `size` of them.
        size: number of clusters.
        generator: of the starting points.
    """
    # Pictures that are alike but for rounding must not be told apart: which of them is chosen
    # would depend on how many were drawn together.
    step = points.abs().max().clamp(min=torch.finfo(points.dtype).tiny) * RESOLUTION
    points = (points / step).round() * step
    centres = k_means(points, size, generator)
    distances = torch.cdist(points, centres)
    labels = distances.argmin(1)
    own = distances.gather(1, labels[:, None])[:, 0]
    chosen = []
    for label in range(size):
        members = (labels == label).nonzero()[:, 0]
        if len(members):
            # Two members of a pair are equally near; the first one stands for it.
            is_near = own[members] <= own[members].min() + TIE * step
            chosen.append(int(members[is_near][0]))
    while len(chosen) < size:
        gaps = torch.cdist(points, points[chosen]).amin(1)
        gaps[chosen] = -1.0
        chosen.append(int(gaps.argmax()))
    # Subtracted from 0, so that no -0 comes out.
    return ClusterChoice(sorted(chosen), (0 - own.round(decimals=6)).tolist())


def k_means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres `(count, features)` of the best of several runs of k-means from k-means++ starts."""
    runs = [_k_means_once(points, count, generator) for _ in range(RESTARTS)]
    spreads = [float(torch.cdist(points, centres).amin(1).square().sum()) for centres in runs]
    return runs[spreads.index(min(spreads))]


def _k_means_once(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    centres = _spread_out(points, count, generator)
    labels = torch.cdist(points, centres).argmin(1)
    for _ in range(MAX_ROUNDS):
        for label in range(count):
            members = points[labels == label]
            if len(members):
                centres[label] = members.mean(0)
        new = torch.cdist(points, centres).argmin(1)
        if torch.equal(new, labels):
            break
        labels = new
    return centres


def _spread_out(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre drawn by its squared distance to those before it."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    while len(chosen) < count:
        gaps = torch.cdist(points, points[chosen]).amin(1).square()
        weights = gaps if gaps.sum() > 0 else torch.ones_like(gaps)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return points[chosen].clone()
