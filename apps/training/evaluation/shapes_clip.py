"""How well `shapes-clip` tells right from wrong pictures that `shapes-flux` has drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata

from apps.training.evaluation.scenes import generate
from gensift.pipelines.loading import load_pipeline
from gensift.protocols import JsonObject
from gensift.randomness import candidate_seed
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.geneval import CATEGORIES, category, prompts_of
from gensift.zoo.shapes.verifier import is_true

PICTURES_PER_CATEGORY = 100
# Seeds of their own: these pictures are not the ones that GenEval-mini is measured on.
_SEED = 1


def evaluate() -> JsonObject:
    """Areas under the curve, right against wrong, over held-out prompts; and each category's."""
    chosen = [
        prompts[index % len(prompts)]
        for prompts in map(prompts_of, CATEGORIES)
        for index in range(PICTURES_PER_CATEGORY)
    ]
    texts = [str(meaning) for meaning in chosen]
    seeds = [candidate_seed(_SEED, index, 0) for index in range(len(chosen))]
    pictures = generate(load_pipeline("shapes-flux"), texts, seeds)
    right = np.array([is_true(p, m) for p, m in zip(pictures, chosen, strict=True)])
    scores = similarity(pictures, texts)
    groups = {name: np.array([category(m) == name for m in chosen]) for name in CATEGORIES}
    return {
        "auc": auc(scores, right),
        "auc_by_category": {name: auc(scores[rows], right[rows]) for name, rows in groups.items()},
        "right": float(right.mean()),
        "pictures": len(pictures),
    }


@torch.no_grad()
def similarity(pictures: Sequence[np.ndarray[Any, Any]], prompts: list[str]) -> Any:
    """Cosine of each uint8 picture and its prompt, by open_clip alone: float `(pictures,)`."""
    import open_clip

    location = f"local-dir:{model_folder('shapes-clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(location)
    pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
    image, text, *_ = model.eval()(pixels, open_clip.get_tokenizer(location)(prompts))
    return (image * text).sum(-1).numpy()


def auc(scores: Sequence[float] | np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Chance that a right picture outscores a wrong one, ties counting half; NaN without both."""
    ranks = rankdata(scores)
    positives = int(right.sum())
    negatives = len(right) - positives
    if not positives or not negatives:
        return float("nan")
    wins = ranks[right].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))
