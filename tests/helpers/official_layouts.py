"""Checkpoints as VAR and Infinity publish them, with random weights, and what they compute.

The forward passes are written from the papers' formulas, on the published names: one row, one
prompt, no cache, nothing of gensift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
Grid = tuple[int, int]
NUM_LEVELS = 15


class Draw:
    """Collects random tensors by name; on the meta device empty ones."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, name: str, *shape: int, mean: float = 0.0, std: float = 0.25) -> None:
        if torch.get_default_device().type == "meta":
            self.state[name] = torch.empty(*shape)
            return
        self.state[name] = mean + std * torch.randn(*shape, generator=self._generator)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        self(f"{name}.weight", outputs, inputs)
        if bias:
            self(f"{name}.bias", outputs)

    def norm(self, name: str, width: int) -> None:
        self(f"{name}.weight", width, mean=1.0)
        self(f"{name}.bias", width)

    def conv(self, name: str, outputs: int, inputs: int, side: int = 3) -> None:
        self(f"{name}.weight", outputs, inputs, side, side, std=0.5 / side / inputs**0.5)
        self(f"{name}.bias", outputs)


def _self_attention(draw: Draw, name: str, width: int, heads: int, flash: bool = False) -> None:
    shape = (1, 1, heads, 1) if flash else (1, heads, 1, 1)
    draw(f"{name}.scale_mul_1H11", *shape, mean=math.log(4))
    draw(f"{name}.q_bias", width)
    draw(f"{name}.v_bias", width)
    draw.state[f"{name}.zero_k_bias"] = torch.zeros(width)
    draw.linear(f"{name}.mat_qkv", 3 * width, width, bias=False)
    draw.linear(f"{name}.proj", width, width)


def var_transformer(
    *,
    depth: int = 2,
    heads: int = 2,
    head_dim: int = 64,
    sides: Sequence[int] = (1, 2, 3),
    classes: int = 5,
    entries: int = 24,
    channels: int = 4,
    shared: bool = False,
    seed: int = 0,
) -> State:
    draw, width, length = Draw(seed), heads * head_dim, sum(side**2 for side in sides)
    draw("pos_start", 1, 1, width)
    draw("pos_1LC", 1, length, width)
    levels = torch.tensor([k for k, s in enumerate(sides) for _ in range(s**2)], device="cpu")
    draw.state["lvl_1L"] = levels[None]
    mask = torch.where(levels[:, None] >= levels, 0.0, -torch.inf)
    draw.state["attn_bias_for_masking"] = mask[None, None]
    draw.linear("word_embed", width, channels)
    draw("class_emb.weight", classes + 1, width)
    draw("lvl_embed.weight", len(sides), width)
    if shared:
        draw.linear("shared_ada_lin.1", 6 * width, width)
    for i in range(depth):
        _self_attention(draw, f"blocks.{i}.attn", width, heads)
        draw.linear(f"blocks.{i}.ffn.fc1", 4 * width, width)
        draw.linear(f"blocks.{i}.ffn.fc2", width, 4 * width)
        if shared:
            draw(f"blocks.{i}.ada_gss", 1, 1, 6, width)
        else:
            draw.linear(f"blocks.{i}.ada_lin.1", 6 * width, width)
    draw.linear("head_nm.ada_lin.1", 2 * width, width)
    draw.linear("head", entries, width)
    return draw.state


def infinity_transformer(
    *,
    depth: int = 4,
    heads: int = 2,
    head_dim: int = 16,
    bits: int = 6,
    text_channels: int = 24,
    text_length: int = 9,
    pooling_heads: int = 4,
    chunks: int = 1,
    flash: bool = False,
    seed: int = 0,
) -> State:
    draw, width = Draw(seed), heads * head_dim
    wide = max(round(4 * width / 256), 1) * 256
    draw("cfg_uncond", text_length, text_channels)
    draw("pos_start", 1, 1, width)
    draw("text_norm.weight", text_channels, mean=1.0)
    draw("text_proj_for_sos.ca.mat_q", 1, pooling_heads, width // pooling_heads)
    draw.linear("text_proj_for_sos.ca.mat_kv", 2 * width, text_channels, bias=False)
    draw("text_proj_for_sos.ca.v_bias", width)
    draw.state["text_proj_for_sos.ca.zero_k_bias"] = torch.zeros(width)
    draw.linear("text_proj_for_sos.ca.proj", width, width)
    draw.linear("text_proj_for_ca.0", width, text_channels)
    draw.linear("text_proj_for_ca.2", width, width)
    draw("lvl_embed.weight", NUM_LEVELS, width)
    draw.linear("word_embed", width, bits)
    draw.linear("shared_ada_lin.1", 6 * width, width)
    for i in range(depth):
        chunk, at = divmod(i, depth // chunks)
        name = f"blocks.{i}" if chunks == 1 else f"block_chunks.{chunk}.module.{at}"
        draw(f"{name}.ada_gss", 1, 1, 6, width)
        _self_attention(draw, f"{name}.sa", width, heads, flash)
        draw.linear(f"{name}.ca.mat_q", width, width)
        draw.linear(f"{name}.ca.mat_kv", 2 * width, width, bias=False)
        draw(f"{name}.ca.v_bias", width)
        draw.state[f"{name}.ca.zero_k_bias"] = torch.zeros(width)
        draw.linear(f"{name}.ca.proj", width, width)
        draw.linear(f"{name}.ffn.fc1", wide, width)
        draw.linear(f"{name}.ffn.fc2", width, wide)
        draw.norm(f"{name}.ca_norm", width)
    draw.linear("head_nm.ada_lin.1", 2 * width, width)
    draw.linear("head", 2 * bits, width)
    return draw.state


def tokenizer(
    *,
    widths: Sequence[int],
    channels: int,
    family: str,
    wrapped: bool = False,
    entries: int = 24,
    seed: int = 0,
) -> State:
    """Encoder and decoder, and what belongs to the quantizer of "var" or "infinity"."""
    draw, attention = Draw(seed), family == "var"
    conv_in, norm_in = (".conv", ".norm") if wrapped else ("", "")

    def block(name: str, inputs: int, outputs: int) -> None:
        draw.norm(f"{name}.norm1{norm_in}", inputs)
        draw.conv(f"{name}.conv1{conv_in}", outputs, inputs)
        draw.norm(f"{name}.norm2{norm_in}", outputs)
        draw.conv(f"{name}.conv2{conv_in}", outputs, outputs)
        if inputs != outputs:
            draw.conv(f"{name}.nin_shortcut{conv_in}", outputs, inputs, 1)

    def attend(name: str, width: int) -> None:
        draw.norm(f"{name}.norm", width)
        draw.conv(f"{name}.qkv", 3 * width, width, 1)
        draw.conv(f"{name}.proj_out", width, width, 1)

    last = len(widths) - 1
    for side, count, way, change in (
        ("encoder", 2, "down", "downsample"),
        ("decoder", 3, "up", "upsample"),
    ):
        first, end = (3, channels) if side == "encoder" else (channels, 3)
        ends = (widths[0], widths[-1]) if side == "encoder" else (widths[-1], widths[0])
        draw.conv(f"{side}.conv_in{conv_in}", ends[0], first)
        order = range(len(widths)) if side == "encoder" else reversed(range(len(widths)))
        width = ends[0]
        for level in order:
            for at in range(count):
                block(f"{side}.{way}.{level}.block.{at}", width, widths[level])
                width = widths[level]
                if attention and level == last:
                    attend(f"{side}.{way}.{level}.attn.{at}", width)
            if level != (last if side == "encoder" else 0):
                draw.conv(f"{side}.{way}.{level}.{change}.conv{conv_in}", width, width)
        block(f"{side}.mid.block_1", widths[-1], widths[-1])
        if attention:
            attend(f"{side}.mid.attn_1", widths[-1])
        block(f"{side}.mid.block_2", widths[-1], widths[-1])
        draw.norm(f"{side}.norm_out{norm_in}", ends[1])
        draw.conv(f"{side}.conv_out{conv_in}", end, ends[1])
    if family == "infinity":
        mask = 2 ** torch.arange(channels)
        return draw.state | {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask}
    draw("quantize.embedding.weight", entries, channels, std=1.0)
    for at in range(4):
        draw.conv(f"quantize.quant_resi.qresi_ls.{at}", channels, channels)
    draw("quantize.ema_vocab_hit_SV", 3, entries)
    draw.conv("quant_conv", channels, channels)
    draw.conv("post_quant_conv", channels, channels)
    return draw.state


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _heads(x: Tensor, heads: int) -> Tensor:
    """`(n, width)` to `(heads, n, head_dim)`."""
    return x.reshape(len(x), heads, -1).transpose(0, 1)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    weights = (q @ k.transpose(1, 2) * scale + mask).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Multiply pairs, as complex numbers, with `exp(i * angle)`."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def rotary(grids: Sequence[Grid], reference: Grid, head_dim: int) -> Tensor:
    """Angles `(tokens, head_dim / 2)`, token by token."""
    half = head_dim // 2
    rows = []
    for height, width in grids:
        for i in range(height):
            for j in range(width):
                # Python rounds half to even, as torch does.
                y, x = round(i * reference[0] / height), round(j * reference[1] / width)
                speeds = [10000 ** (-2 * n / half) for n in range(half // 2)]
                rows.append([y * speed for speed in speeds] + [x * speed for speed in speeds])
    return torch.tensor(rows)


def _blocks(state: State) -> list[str]:
    found = {
        name.rpartition(".ffn.fc1.weight")[0] for name in state if name.endswith("ffn.fc1.weight")
    }
    return sorted(found, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])


def _levels(grids: Sequence[Grid]) -> Tensor:
    return torch.tensor(
        [k for k, (height, width) in enumerate(grids) for _ in range(height * width)]
    )


def _trunk(
    state: State, x: Tensor, condition: Tensor, grids: Sequence[Grid], angles: Tensor | None,
    memory: Tensor | None, heads: int,
) -> Tensor:  # fmt: skip
    width, level = x.shape[-1], _levels(grids)
    mask = torch.where(level[:, None] >= level, 0.0, -torch.inf)
    for name in _blocks(state):
        if f"{name}.ada_gss" in state:
            shared = _linear(state, "shared_ada_lin.1", F.silu(condition))
            vectors = shared.view(6, width) + state[f"{name}.ada_gss"].view(6, width)
        else:
            vectors = _linear(state, f"{name}.ada_lin.1", F.silu(condition)).view(6, width)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = vectors
        sa = f"{name}.sa" if f"{name}.sa.q_bias" in state else f"{name}.attn"
        normed = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = _linear(state, f"{sa}.mat_qkv", normed).chunk(3, dim=-1)
        q, k, v = (
            _heads(part, heads)
            for part in (q + state[f"{sa}.q_bias"], k, v + state[f"{sa}.v_bias"])
        )
        sharp = state[f"{sa}.scale_mul_1H11"].flatten().clamp(max=math.log(100)).exp()
        q = q / q.norm(dim=-1, keepdim=True) * sharp[:, None, None]
        k = k / k.norm(dim=-1, keepdim=True)
        if angles is not None:
            q, k = _turn(q, angles), _turn(k, angles)
        x = x + gamma1 * _linear(state, f"{sa}.proj", _softmax_attention(q, k, v, 1.0, mask))
        if memory is not None:
            affine = (state[f"{name}.ca_norm.weight"], state[f"{name}.ca_norm.bias"])
            q = _heads(
                _linear(state, f"{name}.ca.mat_q", F.layer_norm(x, (width,), *affine, 1e-6)), heads
            )
            k, v = _linear(state, f"{name}.ca.mat_kv", memory).chunk(2, dim=-1)
            k, v = _heads(k, heads), _heads(v + state[f"{name}.ca.v_bias"], heads)
            read = _softmax_attention(q, k, v, q.shape[-1] ** -0.5, torch.zeros(()))
            x = x + _linear(state, f"{name}.ca.proj", read)
        normed = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale2) + shift2
        inner = F.gelu(_linear(state, f"{name}.ffn.fc1", normed), approximate="tanh")
        x = x + gamma2 * _linear(state, f"{name}.ffn.fc2", inner)
    scale, shift = _linear(state, "head_nm.ada_lin.1", F.silu(condition)).view(2, width)
    normed = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale) + shift
    return _linear(state, "head", normed)


def _tokens(state: State, first: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """The first token, then the inputs `(channels, h, w)` embedded."""
    rest = [_linear(state, "word_embed", grid.flatten(1).T) for grid in inputs]
    return torch.cat([(first + state["pos_start"].flatten())[None], *rest])


def var_logits(state: State, sides: Sequence[int], label: int, inputs: Sequence[Tensor]) -> Tensor:
    """`(tokens, entries)` of one row."""
    grids = [(side, side) for side in sides]
    condition = state["class_emb.weight"][label]
    x = _tokens(state, condition, inputs)
    x = x + state["lvl_embed.weight"][_levels(grids)] + state["pos_1LC"][0]
    heads = state["blocks.0.attn.scale_mul_1H11"].numel()
    return _trunk(state, x, condition, grids, None, None, heads)


def infinity_logits(
    state: State, grids: Sequence[Grid], reference: Grid, text: Tensor, inputs: Sequence[Tensor]
) -> Tensor:
    """`(tokens, 2 * bits)` of one row; `text` `(length, text_channels)`."""
    rms = (text.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    normed = text / rms * state["text_norm.weight"]
    sos, query = "text_proj_for_sos.ca", state["text_proj_for_sos.ca.mat_q"]
    k, v = _linear(state, f"{sos}.mat_kv", normed).chunk(2, dim=-1)
    pooling = query.shape[1]
    k, v = _heads(k, pooling), _heads(v + state[f"{sos}.v_bias"], pooling)
    pooled = _softmax_attention(
        query.transpose(0, 1), k, v, query.shape[-1] ** -0.5, torch.zeros(())
    )
    condition = _linear(state, f"{sos}.proj", pooled)[0]
    inner = F.gelu(_linear(state, "text_proj_for_ca.0", normed), approximate="tanh")
    memory = _linear(state, "text_proj_for_ca.2", inner)
    x = _tokens(state, condition, inputs) + state["lvl_embed.weight"][_levels(grids)]
    heads = next(v.numel() for name, v in state.items() if name.endswith("sa.scale_mul_1H11"))
    angles = rotary(grids, reference, x.shape[-1] // heads)
    return _trunk(state, x, condition, grids, angles, memory, heads)


def _layer(state: State, name: str, kind: str) -> tuple[Tensor, Tensor]:
    name = name if f"{name}.weight" in state else f"{name}.{kind}"
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, *_layer(state, name, "norm"), 1e-6)


def _conv(state: State, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv2d(x, *_layer(state, name, "conv"), padding=padding, stride=stride)


def _resnet(state: State, name: str, x: Tensor) -> Tensor:
    h = _conv(state, f"{name}.conv1", F.silu(_norm(state, f"{name}.norm1", x)))
    h = _conv(state, f"{name}.conv2", F.silu(_norm(state, f"{name}.norm2", h)))
    if any(key.startswith(f"{name}.nin_shortcut") for key in state):
        x = _conv(state, f"{name}.nin_shortcut", x, padding=0)
    return x + h


def _attention(state: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.qkv.weight" not in state:
        return x
    batch, channels, height, width = x.shape
    qkv = _conv(state, f"{name}.qkv", _norm(state, f"{name}.norm", x), padding=0)
    q, k, v = qkv.reshape(batch, 3, channels, height * width).unbind(1)
    weights = torch.einsum("bci,bcj->bij", q, k).mul(channels**-0.5).softmax(-1)
    h = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
    return x + _conv(state, f"{name}.proj_out", h, padding=0)


def _middle(state: State, side: str, x: Tensor) -> Tensor:
    x = _resnet(state, f"{side}.mid.block_1", x)
    x = _attention(state, f"{side}.mid.attn_1", x)
    return _resnet(state, f"{side}.mid.block_2", x)


def _end(state: State, side: str, x: Tensor) -> Tensor:
    return _conv(state, f"{side}.conv_out", F.silu(_norm(state, f"{side}.norm_out", x)))


def encode(state: State, pictures: Tensor, num_levels: int) -> Tensor:
    """Pictures in [-1, 1] to latents."""
    x = _conv(state, "encoder.conv_in", pictures)
    for level in range(num_levels):
        for at in range(2):
            x = _resnet(state, f"encoder.down.{level}.block.{at}", x)
            x = _attention(state, f"encoder.down.{level}.attn.{at}", x)
        if level < num_levels - 1:
            padded = F.pad(x, (0, 1, 0, 1))
            name = f"encoder.down.{level}.downsample.conv"
            x = _conv(state, name, padded, padding=0, stride=2)
    x = _end(state, "encoder", _middle(state, "encoder", x))
    return _conv(state, "quant_conv", x) if "quant_conv.weight" in state else x


def decode(state: State, latents: Tensor, num_levels: int) -> Tensor:
    """Latents to pictures, not clamped."""
    if "post_quant_conv.weight" in state:
        latents = _conv(state, "post_quant_conv", latents)
    x = _middle(state, "decoder", _conv(state, "decoder.conv_in", latents))
    for level in reversed(range(num_levels)):
        for at in range(3):
            x = _resnet(state, f"decoder.up.{level}.block.{at}", x)
            x = _attention(state, f"decoder.up.{level}.attn.{at}", x)
        if level:
            x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
            x = _conv(state, f"decoder.up.{level}.upsample.conv", x)
    return _end(state, "decoder", x)
