"""Outputs taken apart and put together again are of the same type and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from PIL import Image

from samplers.diffusion.outputs import join_rows, split_rows

IMAGES: dict[str, Any] = {
    "tensor": torch.arange(12.0).reshape(3, 4),
    "array": np.arange(12.0).reshape(3, 4),
    "list": [Image.new("RGB", (2, 2), (level, 0, 0)) for level in range(3)],
}


@pytest.mark.parametrize("kind", IMAGES)
def test_chosen_rows_keep_type_and_flags(kind: str) -> None:
    images = IMAGES[kind]
    output = StableDiffusionPipelineOutput(
        images=images, nsfw_content_detected=[False, True, False]
    )
    rows = split_rows(output)
    joined = join_rows(output, [rows[1], rows[0], rows[1]])
    assert type(joined) is type(output) and type(joined.images) is type(images)
    assert joined.nsfw_content_detected == [True, False, True]
    for place, source in enumerate((1, 0, 1)):
        assert np.array_equal(np.asarray(joined.images[place]), np.asarray(images[source]))


def test_tuples_stay_tuples_and_what_has_no_rows_passes() -> None:
    output = (IMAGES["tensor"], None)
    (images, flags) = join_rows(output, split_rows(output)[:1])
    assert torch.equal(images, IMAGES["tensor"][:1]) and flags is None
    unchecked = StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)
    assert join_rows(unchecked, split_rows(unchecked)).nsfw_content_detected is None
