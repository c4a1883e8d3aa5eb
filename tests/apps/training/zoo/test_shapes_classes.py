"""The class-conditional training set, and the batches that are drawn from it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.training.zoo.flow_batches import FlowBatch, flow_batch
from apps.training.zoo.shapes_classes import (
    CLASSES,
    LabelledLatents,
    draw_pictures,
    encode_classes,
    load_vae,
)
from gensift.zoo.shapes.grammar import parse
from gensift.zoo.shapes.verifier import is_true

BOUNDARIES = (1.0, 0.5, 0.2, 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledLatents:
    return encode_classes(tmp_path_factory.mktemp("data") / "latents.safetensors", 48)


def test_pictures_show_their_class() -> None:
    pixels, labels = draw_pictures(48, np.random.default_rng(0))
    assert sorted(set(labels.tolist())) == list(range(24)) and len(set(CLASSES)) == 24
    pictures = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        assert is_true(picture, parse(CLASSES[label]))


def test_latents_decode_to_the_picture_that_was_drawn(data: LabelledLatents) -> None:
    vae = load_vae()
    with torch.no_grad():
        latents = data.mean[:24].float() / vae.config.scaling_factor + vae.config.shift_factor
        decoded = (vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5
    pictures = decoded.round().byte().permute(0, 2, 3, 1).numpy()
    names = [CLASSES[label] for label in data.labels[:24].tolist()]
    right = [is_true(p, parse(n)) for p, n in zip(pictures, names, strict=True)]
    assert np.mean(right) > 0.9


def test_features_tell_the_place_of_the_object(data: LabelledLatents) -> None:
    """A patch of the object differs from the background more than patches of that do."""
    assert data.features.shape == (48, 16, 128)
    spread = data.features.float().std(dim=1).mean()
    assert spread > 0.1


def test_the_set_is_made_once(tmp_path: Path) -> None:
    cache = tmp_path / "latents.safetensors"
    first = encode_classes(cache, 24)
    written = cache.stat().st_mtime_ns
    assert torch.equal(encode_classes(cache, 24).mean, first.mean)
    assert cache.stat().st_mtime_ns == written


def batch(data: LabelledLatents, step: int = 5) -> FlowBatch:
    return flow_batch(step, data, BOUNDARIES, 48)


def test_a_step_has_its_own_batch(data: LabelledLatents) -> None:
    assert torch.equal(batch(data).noise, batch(data).noise)
    assert not torch.equal(batch(data).noise, batch(data, 6).noise)


def test_rows_are_in_order_of_segments(data: LabelledLatents) -> None:
    sigma = batch(data).sigma.view(3, 16)
    for segment, (high, low) in enumerate(pairwise(BOUNDARIES)):
        assert float(sigma[segment].min()) >= low and float(sigma[segment].max()) <= high
    assert batch(data).start.view(3, 16)[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.2])


def test_latents_lie_on_the_straight_line_of_their_pair(data: LabelledLatents) -> None:
    found = batch(data)
    zeros = torch.zeros(48)
    assert torch.equal(found.latents_at(zeros), found.data)
    assert torch.allclose(found.latents_at(zeros + 1), found.noise, atol=1e-6)
    assert (found.labels == len(CLASSES)).any() and (found.labels < len(CLASSES)).any()
