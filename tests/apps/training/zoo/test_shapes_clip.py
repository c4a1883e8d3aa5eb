"""The recipe of shapes-clip: its loss by brute force, and a round trip of what it publishes."""

from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.functional import logsigmoid

from apps.training.zoo import shapes_clip, shapes_pairs
from apps.training.zoo.shapes_clip import PairLoss, build, publish


def test_the_three_kinds_of_pairs_weigh_the_same() -> None:
    model = build().eval()
    pixels, texts = torch.randn(3, 3, 64, 64), torch.randint(0, 150, (4, 16))
    truth = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]).bool()
    near = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]).bool()
    image, text, scale, bias = model(pixels, texts)
    kinds: dict[str, list[float]] = {"true": [], "near": [], "far": []}
    for row in range(3):
        for column in range(4):
            logit = scale * image[row] @ text[column] + bias
            is_true = bool(truth[row, column])
            kind = "true" if is_true else "near" if near[row, column] else "far"
            kinds[kind].append(-logsigmoid(logit if is_true else -logit).item())
    expected = sum(sum(values) / len(values) for values in kinds.values())
    assert PairLoss(model)(pixels, texts, truth, near).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_published_loads_with_open_clip(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes_pairs, "RENDERED", 24)
    monkeypatch.setattr(shapes_pairs, "GENERATED", 4)
    monkeypatch.setattr(shapes_pairs, "GENERATION_STEPS", 1)
    monkeypatch.setattr(shapes_clip, "BATCH", 4)
    monkeypatch.setattr(torch, "compile", lambda module: module)
    finished = publish(tmp_path, steps=2)

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{finished}")
    trained = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
    for name, value in model.state_dict().items():
        assert torch.allclose(value, trained[f"clip.{name}"], atol=2e-3, rtol=2e-3), name
    tokens = open_clip.get_tokenizer(f"local-dir:{finished}")(["a red circle"])
    assert tokens.shape == (1, 16)
