"""Checkpoints in the published layout, made of random weights by an independent model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import ACTION, DIM, HORIZON, OBS, observations
from safetensors.torch import save_file
from torch import Tensor, nn

import gensift
from apps.commands import main
from gensift.errors import ConfigError
from gensift.pipelines.policy.convert import PolicySettings, read

WIDTH = 16


class Published(nn.Module):
    """The published transformer: its names, and its computation written down independently."""

    def __init__(self, cond_layers: int) -> None:
        super().__init__()
        kwargs: dict[str, Any] = {
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.input_emb = nn.Linear(ACTION, WIDTH)
        self.pos_emb = nn.Parameter(torch.randn(1, HORIZON, WIDTH))
        self.cond_obs_emb = nn.Linear(DIM, WIDTH)
        self.cond_pos_emb = nn.Parameter(torch.randn(1, 1 + OBS, WIDTH))
        self._dummy_variable = nn.Parameter()
        self.encoder: nn.Module = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.Mish(), nn.Linear(4 * WIDTH, WIDTH)
        )
        if cond_layers:
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, **kwargs),
                cond_layers,
                enable_nested_tensor=False,
            )
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 4 * WIDTH, **kwargs)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.ln_f, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, ACTION)
        mask = torch.full((HORIZON, HORIZON), float("-inf")).triu(1)
        memory = torch.zeros(HORIZON, 1 + OBS)
        for action in range(HORIZON):
            memory[action, action + 2 :] = float("-inf")
        self.register_buffer("mask", mask)
        self.register_buffer("memory_mask", memory)

    def forward(self, sample: Tensor, timestep: float, cond: Tensor) -> Tensor:
        half = WIDTH // 2
        rates = 10000 ** (-torch.arange(half) / (half - 1))
        time = torch.cat([(timestep * rates).sin(), (timestep * rates).cos()])
        tokens = [time.expand(len(cond), 1, WIDTH), self.cond_obs_emb(cond)]
        memory = self.encoder(torch.cat(tokens, dim=1) + self.cond_pos_emb)
        hidden = self.input_emb(sample) + self.pos_emb
        for layer in self.decoder.layers:
            hidden = layer(hidden, memory, tgt_mask=self.mask, memory_mask=self.memory_mask)
        predicted: Tensor = self.head(self.ln_f(hidden))
        return predicted


def published_state(cond_layers: int = 0) -> tuple[Published, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Published(cond_layers).eval()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state["_dummy_variable"] = state["mask_generator._dummy_variable"] = torch.zeros(0)
    for name, dim in (("obs", DIM), ("action", ACTION)):
        prefix = f"normalizer.params_dict.{name}"
        state[f"{prefix}.scale"] = torch.rand(dim) + 0.5
        state[f"{prefix}.offset"] = torch.rand(dim)
        for statistic in ("min", "max", "mean", "std"):
            state[f"{prefix}.input_stats.{statistic}"] = torch.rand(dim)
    return model, state


@pytest.mark.parametrize("cond_layers", [0, 2])
def test_predictions_are_those_of_the_published_layout(tmp_path: Path, cond_layers: int) -> None:
    model, state = published_state(cond_layers)
    save_file(state, tmp_path / "policy.safetensors")
    pipe, reports = read([tmp_path], PolicySettings(n_head=2, n_action_steps=4))
    sample, cond = torch.randn(2, HORIZON, ACTION), observations(2)
    with torch.no_grad():
        found = pipe.transformer(sample, 17, cond)
        assert torch.allclose(found, model(sample, 17, cond), atol=1e-5)
    scale = state["normalizer.params_dict.obs.scale"]
    offset = state["normalizer.params_dict.obs.offset"]
    assert torch.allclose(pipe.normalizer.obs.normalize(cond), cond * scale + offset)
    assert [report.part for report in reports] == ["transformer", "normalizer"]


def test_a_pickle_needs_leave_and_the_folder_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, state = published_state()
    source, target = tmp_path / "latest.ckpt", tmp_path / "folder"
    torch.save({"state_dicts": {"ema_model": state}}, source)
    command = ["convert", "diffusion-policy", str(source), str(target), "--heads", "2"]
    command += ["--action-steps", "4"]
    assert main.main(command) == 2
    assert "--allow-pickle" in capsys.readouterr().err and not target.exists()
    assert main.main([*command, "--allow-pickle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(target)
    pipe: Any = gensift.load_pipeline(target, device="cpu")
    sample, cond = torch.randn(1, HORIZON, ACTION), observations(1)
    with torch.no_grad():
        assert torch.allclose(pipe.transformer(sample, 3, cond), model(sample, 3, cond), atol=1e-5)
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe(cond, num_inference_steps=3).actions.shape == (1, 4, ACTION)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    _, state = published_state()
    del state["model.decoder.layers.1.linear2.bias"]
    save_file(state, tmp_path / "policy.safetensors")
    with pytest.raises(ConfigError, match=r"decoder\.layers\.1\.linear2\.bias"):
        read([tmp_path], PolicySettings(n_head=2, n_action_steps=4))


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ConfigError, match="epsilon, sample"):
        PolicySettings(prediction_type="velocity")
