"""The blocks of the denoisers that are known without a declaration."""

from __future__ import annotations

from caches.block_facts import BlockFacts, DenoiserBlocks, Unit

_ATTENTION_1 = Unit("attn1", "self-attention", "attn1")
_ATTENTION_2 = Unit("attn2", "cross-attention", "attn2")
_JOINT_ATTENTION = Unit("attn", "joint-attention", "attn")
_FEED_FORWARD = Unit("ff", "feed-forward", "ff")
_FEED_FORWARD_TEXT = Unit("ff_context", "feed-forward", "ff_context")

BUILT_IN_BLOCKS = (
    # With an IP adapter the attention returns a third tensor; it is kept with the others.
    BlockFacts(
        block_class="FluxTransformerBlock",
        units=(_JOINT_ATTENTION, _FEED_FORWARD, _FEED_FORWARD_TEXT),
        returns=("encoder", "hidden"),
    ),
    # One projection takes the attention and the hidden layer of the feed-forward, side by side.
    BlockFacts(
        block_class="FluxSingleTransformerBlock",
        units=(Unit("fused", "fused", "proj_out", also=("attn", "proj_mlp")),),
        returns=("encoder", "hidden"),
    ),
    BlockFacts(
        block_class="Flux2TransformerBlock",
        units=(_JOINT_ATTENTION, _FEED_FORWARD, _FEED_FORWARD_TEXT),
        returns=("encoder", "hidden"),
    ),
    # The feed-forward is inside the attention. The denoiser gives text and image joined as the
    # hidden states, so the encoder argument is None.
    BlockFacts(
        block_class="Flux2SingleTransformerBlock",
        units=(Unit("attn", "fused", "attn"),),
    ),
    # The last block of a denoiser returns None for the text; there the second tensor of its
    # attention is computed but read by nothing.
    BlockFacts(
        block_class="JointTransformerBlock",
        units=(
            _JOINT_ATTENTION,
            Unit("attn2", "self-attention", "attn2"),
            _FEED_FORWARD,
            _FEED_FORWARD_TEXT,
        ),
        returns=("encoder", "hidden"),
    ),
    BlockFacts(
        block_class="BasicTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, _FEED_FORWARD),
    ),
    BlockFacts(
        block_class="WanTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, Unit("ffn", "feed-forward", "ffn")),
    ),
    # The feed-forward is a convolution: its output is `(batch, channels, height, width)`.
    BlockFacts(
        block_class="SanaTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, _FEED_FORWARD),
    ),
    BlockFacts(
        block_class="QwenImageTransformerBlock",
        units=(
            _JOINT_ATTENTION,
            Unit("img_mlp", "feed-forward", "img_mlp"),
            Unit("txt_mlp", "feed-forward", "txt_mlp"),
        ),
        returns=("encoder", "hidden"),
    ),
    # Outputs are normed before the gate; text and image are one stream.
    BlockFacts(
        block_class="ZImageTransformerBlock",
        units=(
            Unit("attention", "self-attention", "attention"),
            Unit("feed_forward", "feed-forward", "feed_forward"),
        ),
        hidden_argument="x",
        encoder_argument=None,
        is_padded=True,
    ),
    # Of torch: each sub-block is a method, whose output is added to what was not normed.
    BlockFacts(
        block_class="TransformerDecoderLayer",
        units=(
            Unit("sa", "self-attention", "_sa_block", also=("norm1",)),
            Unit("ca", "cross-attention", "_mha_block", also=("norm2",)),
            Unit("ff", "feed-forward", "_ff_block", also=("norm3",)),
        ),
        hidden_argument="tgt",
        encoder_argument=None,
        pre_norm_flag="norm_first",
        is_sum=True,
    ),
)

BUILT_IN_DENOISERS = (
    DenoiserBlocks(
        denoiser_class="FluxTransformer2DModel",
        stages=("transformer_blocks", "single_transformer_blocks"),
        body=("transformer_blocks", "single_transformer_blocks"),
    ),
    # No body: the text joins the hidden states between the lists, which changes their shape.
    DenoiserBlocks(
        denoiser_class="Flux2Transformer2DModel",
        stages=("transformer_blocks", "single_transformer_blocks"),
    ),
    *(
        DenoiserBlocks(
            denoiser_class=name, stages=("transformer_blocks",), body=("transformer_blocks",)
        )
        for name in (
            "SD3Transformer2DModel",
            "PixArtTransformer2DModel",
            "SanaTransformer2DModel",
            "QwenImageTransformer2DModel",
            "DiTTransformer2DModel",
        )
    ),
    DenoiserBlocks(denoiser_class="WanTransformer3DModel", stages=("blocks",), body=("blocks",)),
    # `siglip_refiner` runs in some calls only, so that its outputs may be missing: always computed.
    DenoiserBlocks(
        denoiser_class="ZImageTransformer2DModel",
        stages=("noise_refiner", "context_refiner", "layers"),
        body=("layers",),
    ),
    DenoiserBlocks(
        denoiser_class="DiffusionPolicyTransformer",
        stages=("decoder.layers",),
        body=("decoder.layers",),
    ),
    # No body: skip connections lead around its parts, which differ in shape.
    DenoiserBlocks(
        denoiser_class="UNet2DConditionModel",
        stages=("down_blocks", "mid_block", "up_blocks"),
    ),
)
