"""How published tokenizers name the parts of their convolutional encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence

from gensift.pipelines.next_scale.checkpoints import Checkpoint, State
from gensift.pipelines.next_scale.conversion import count, shape_of

# Infinity's layers are wrapped once more, some of its files without that.
WRAPPED = (
    r"\b(conv_in|conv_out|norm_out|norm[12]|conv[12]|nin_shortcut|(?:down|up)sample\.conv)"
    r"\.(?:conv|norm)\."
)


def autoencoder_rules(num_levels: int) -> list[tuple[str, str]]:
    """Rules for a model of `num_levels` resolutions.

    Its decoder counts levels from full resolution, ours from the lowest one.
    """
    return [
        (WRAPPED, r"\1."),
        (r"^encoder\.down\.", "encoder.levels."),
        *(
            (rf"^decoder\.up\.{level}\.", f"decoder.levels.{num_levels - 1 - level}.")
            for level in range(num_levels)
        ),
        (r"(levels\.\d+)\.block\.", r"\1.blocks."),
        (r"(levels\.\d+)\.attn\.", r"\1.attentions."),
        (r"(levels\.\d+)\.(?:down|up)sample\.", r"\1.resample."),
        (r"\bmid\.block_([12])\.", r"middle.block\1."),
        (r"\bmid\.attn_1\.", "middle.attention."),
        (r"\bnin_shortcut\.", "shortcut."),
        (r"\bqkv\.", "to_qkv."),
        (r"\bproj_out\.", "to_out."),
    ]


def num_levels_of(state: State) -> int:
    """Resolutions of the encoder."""
    return count(state, r"encoder\.down\.(\d+)\.")


def autoencoder_config(state: State, checkpoint: Checkpoint) -> dict[str, int | Sequence[int]]:
    """What the shapes say of the encoder, by names of our configs."""

    def outputs(layer: str) -> int:
        inner = next((name for name in (layer, f"{layer}.conv") if f"{name}.bias" in state), layer)
        return shape_of(state, f"{inner}.bias", checkpoint, 1)[0]

    levels = range(num_levels_of(state))
    return {
        "latent_channels": outputs("encoder.conv_out"),
        "block_out_channels": [outputs(f"encoder.down.{i}.block.0.conv1") for i in levels],
        "layers_per_block": count(state, r"encoder\.down\.0\.block\.(\d+)\."),
    }
