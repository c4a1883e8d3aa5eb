"""Configurations, and which sizes fit together."""

from __future__ import annotations

from typing import Any

from gensift.errors import ConfigError

BFM_SIZES: dict[str, dict[str, int]] = {
    "S": {
        "hidden_size": 384,
        "num_heads": 6,
        "trunk_depth": 6,
        "segment_depth": 4,
        "frn_depth": 2,
        "adaln_rank": 96,
    },
    "B": {
        "hidden_size": 768,
        "num_heads": 12,
        "trunk_depth": 8,
        "segment_depth": 2,
        "frn_depth": 2,
        "adaln_rank": 192,
    },
    "L": {
        "hidden_size": 1024,
        "num_heads": 16,
        "trunk_depth": 17,
        "segment_depth": 4,
        "frn_depth": 4,
        "adaln_rank": 256,
    },
    "XL": {
        "hidden_size": 1152,
        "num_heads": 16,
        "trunk_depth": 20,
        "segment_depth": 5,
        "frn_depth": 4,
        "adaln_rank": 288,
    },
}
"""Of `BFMTransformer2DModel`. XL is the released one; the others are ours: a full step costs about
what one of the SiT of the same letter does."""

SIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 384, "num_heads": 6, "depth": 12},
    "B": {"hidden_size": 768, "num_heads": 12, "depth": 12},
    "L": {"hidden_size": 1024, "num_heads": 16, "depth": 24},
    "XL": {"hidden_size": 1152, "num_heads": 16, "depth": 28},
}
"""Of `SiTTransformer2DModel`. Source: SiT, arXiv 2401.08740, table 1."""


def check_sizes(config: Any) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        ConfigError: naming all of them.
    """
    problems = []
    if config.hidden_size % (4 * config.num_heads):
        problems.append(
            f"`hidden_size` {config.hidden_size} is no multiple of 4 * `num_heads` "
            f"({4 * config.num_heads}), which rotary positions in two dimensions need"
        )
    if config.sample_size % config.patch_size:
        problems.append(
            f"`sample_size` {config.sample_size} is no multiple of `patch_size` {config.patch_size}"
        )
    if problems:
        raise ConfigError.from_problems("Transformer", problems)
