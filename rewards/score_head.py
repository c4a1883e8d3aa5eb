"""The linear head that turns an embedding into a score, of the aesthetic predictor and others."""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = (1024, 128, 64, 16, 1)
# Between the layers were dropouts, which kept their places in the numbering of the keys.
_POSITIONS = (0, 2, 4, 6, 7)


class ScoreHead(nn.Module):
    """Five linear layers without activations between them; keys as published (`layers.0.weight`).

    Source: the LAION improved aesthetic predictor, from which ImageReward took it; the activations
    are commented out in both.
    """

    def __init__(self, width: int = 768) -> None:
        """Take embeddings of `width`."""
        super().__init__()
        self.layers = nn.Sequential(*(nn.Identity() for _ in range(_POSITIONS[-1] + 1)))
        for position, given, wanted in zip(
            _POSITIONS, (width, *_WIDTHS[:-1]), _WIDTHS, strict=True
        ):
            self.layers[position] = nn.Linear(given, wanted)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score float32 `(batch, width)` as `(batch,)`."""
        scores: Tensor = self.layers(embeddings)
        return scores[:, 0]
