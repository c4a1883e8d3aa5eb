"""Averages of weights against their definition."""

import pytest
import torch
from torch import nn

from gensift.average import Average


def test_the_average_is_the_exponential_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Average({"m": model}, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 4.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update({"m": model}, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.values["m.weight"].item() == pytest.approx(expected)
