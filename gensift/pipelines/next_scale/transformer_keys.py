"""What the published transformers of VAR and Infinity name alike."""

from __future__ import annotations

TRANSFORMER_RULES = (
    (r"^pos_start$", "start_position"),
    (r"^word_embed\.", "embed."),
    (r"^lvl_embed\.", "level_embedding."),
    (r"^shared_ada_lin\.1\.", "shared_modulation."),
    (r"^blocks\.(\d+)\.ada_gss$", r"block_modulation.\1"),
    (r"^head_nm\.ada_lin\.1\.", "head_norm.condition."),
    (r"\.ffn\.fc1\.", ".feed_forward.inner."),
    (r"\.ffn\.fc2\.", ".feed_forward.outer."),
    (r"\.scale_mul_1H11$", ".log_scale"),
    (r"\.q_bias$", ".query_bias"),
    (r"\.v_bias$", ".value_bias"),
    (r"\.mat_qkv\.", ".to_qkv."),
    (r"\.mat_kv\.", ".to_kv."),
    (r"\.proj\.", ".to_out."),
)
TRANSFORMER_BUFFERS = (r"(.+\.)?zero_k_bias", r"lvl_1L", r"attn_bias_for_masking")
"""Constants, which the published code keeps in its checkpoints."""
