"""Published Diffusion Policy checkpoints of low-dimensional tasks as pipeline folders.

Such a checkpoint holds the state dict of a policy: `model.*` is the transformer, and
`normalizer.params_dict.*` the scales of observations and actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import DDPMScheduler

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.checkpoints import Checkpoint, State
from gensift.pipelines.next_scale.conversion import (
    Part,
    Report,
    WeightDtype,
    check_destination,
    count,
    fill,
    find_parts,
    save,
    shape_of,
)
from gensift.pipelines.policy.normalizer import LinearNormalizer
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer
from gensift.protocols import JsonObject

_PARAMS = r"normalizer\.params_dict\."
_NOTHING = (r"(.*\.)?_dummy_variable", r"model\.(memory_)?mask")
TRANSFORMER = Part(
    name="transformer",
    is_mine=lambda keys: "model.pos_emb" in keys,
    rules=lambda state: ((r"^model\.", ""),),
    dropped=(*_NOTHING, r"normalizer\..*"),
)
NORMALIZER = Part(
    name="normalizer",
    is_mine=lambda keys: "normalizer.params_dict.action.scale" in keys,
    rules=lambda state: ((f"^{_PARAMS}", ""),),
    dropped=(*_NOTHING, r"model\..*", _PARAMS + r".*\.input_stats\..*"),
)


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What a state dict does not tell; the values are those of the published configurations.

    Attributes:
        n_head: attention heads.
        n_action_steps: actions executed per call.
        prediction_type: what the network predicts: "epsilon" or "sample".
        num_train_timesteps: of the noise schedule.
        oa_step_convention: see `DiffusionPolicyPipeline`.
    """

    n_head: int = 4
    n_action_steps: int = 8
    prediction_type: str = "epsilon"
    num_train_timesteps: int = 100
    oa_step_convention: bool = True

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "sample"):
            raise ConfigError(
                f"`prediction_type` is {self.prediction_type!r}; allowed: epsilon, sample."
            )


def convert(
    sources: Sequence[Path],
    destination: Path,
    settings: PolicySettings | None = None,
    *,
    allow_pickle: bool = False,
    dtype: WeightDtype | None = None,
) -> list[Report]:
    """Write a pipeline folder of a published checkpoint.

    Args:
        sources: the file with the state dict, or a folder that holds it.
        destination: the new folder.
        settings: what the state dict does not tell.
        allow_pickle: whether to open pickles; only tensors in them are read.
        dtype: of the transformer's weights; by default as they are.

    Raises:
        ConfigError: naming what is missing, unknown, or of another shape.
    """
    check_destination(destination)
    pipeline, reports = read(sources, settings, allow_pickle=allow_pickle, dtype=dtype)
    save(pipeline, destination)
    return reports


def read(
    sources: Sequence[Path],
    settings: PolicySettings | None = None,
    *,
    allow_pickle: bool = False,
    dtype: WeightDtype | None = None,
) -> tuple[DiffusionPolicyPipeline, list[Report]]:
    """The pipeline of a published checkpoint; arguments as of `convert`."""
    chosen = settings or PolicySettings()
    checkpoint, scales = find_parts(sources, [TRANSFORMER, NORMALIZER], allow_pickle=allow_pickle)
    state, numbers = checkpoint.read(), scales.read()
    config = config_of(state, checkpoint, chosen.n_head)
    transformer, about_it = fill(
        lambda: DiffusionPolicyTransformer(**config), state, TRANSFORMER, checkpoint, dtype
    )
    dims = {"obs_dim": config["cond_dim"], "action_dim": config["input_dim"]}
    normalizer, about_them = fill(lambda: LinearNormalizer(**dims), numbers, NORMALIZER, scales)
    # What follows from the config, masks and frequencies, was made without memory.
    whole = DiffusionPolicyTransformer(**config).to(transformer.dtype)
    whole.load_state_dict(transformer.state_dict())
    scheduler = DDPMScheduler(
        num_train_timesteps=chosen.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=chosen.prediction_type,
        clip_sample=True,
    )
    pipeline = DiffusionPolicyPipeline(
        whole.eval(),
        scheduler,
        normalizer,
        n_action_steps=chosen.n_action_steps,
        oa_step_convention=chosen.oa_step_convention,
    )
    return pipeline, [about_it, about_them]


def config_of(state: State, checkpoint: Checkpoint, n_head: int) -> JsonObject:
    """The transformer's config, as the shapes of its parameters tell it."""
    width, input_dim = shape_of(state, "model.input_emb.weight", checkpoint, 2)
    output_dim, _ = shape_of(state, "model.head.weight", checkpoint, 2)
    _, horizon, _ = shape_of(state, "model.pos_emb", checkpoint, 3)
    _, tokens, _ = shape_of(state, "model.cond_pos_emb", checkpoint, 3)
    _, cond_dim = shape_of(state, "model.cond_obs_emb.weight", checkpoint, 2)
    return {
        "input_dim": input_dim,
        "output_dim": output_dim,
        "horizon": horizon,
        "n_obs_steps": tokens - 1,
        "cond_dim": cond_dim,
        "n_layer": count(state, r"model\.decoder\.layers\.(\d+)\."),
        "n_head": n_head,
        "n_emb": width,
        "causal_attn": "model.mask" in state,
        "n_cond_layers": count(state, r"model\.encoder\.layers\.(\d+)\."),
    }
