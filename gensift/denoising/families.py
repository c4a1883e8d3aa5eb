"""Denoiser families: which arguments of a denoiser carry one entry per candidate.

Sizes cannot tell: FLUX `img_ids` with 16 tokens looks like a batch of 16. So each denoiser class
declares its batched arguments by name, as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gensift.errors import ConfigError, DuplicateNameError, UnsupportedPipelineError

_EXAMPLE = (
    "from gensift.denoising.families import DenoiserFamily, declare_denoiser; "
    'declare_denoiser(DenoiserFamily(name="my-net", denoiser_class="{denoiser}", '
    'rows=("hidden_states", "timestep", "encoder_hidden_states")))'
)


@dataclass(frozen=True, kw_only=True)
class DenoiserFamily:
    """How candidates are laid out in the calls of one denoiser class.

    A call carries `groups * num_rows` denoiser rows, group after group (`[uncond; cond]` under
    batched classifier-free guidance). The leading argument, first of `row_list` or else first of
    `rows`, holds the latents and so tells the number of rows in a call.

    Attributes:
        name: short name of the family.
        denoiser_class: name of the denoiser class; subclasses are found through their MRO.
        rows: arguments that are tensors `(rows, ...)`; a leading size of 1, 0-dim tensors, numbers
            and None pass through as broadcast.
        row_list: arguments that are lists with one element per row.
        nested: arguments that are dicts, lists or tuples of tensors `(rows, ...)`.
        groups: allowed values of rows in a call / num_rows.
        components: pipeline attributes that hold such denoisers.
        preview: key of the decode recipe in `samplers.diffusion.preview`.
        is_loop_grouped: the scheduler itself steps all groups; candidates are the first num_rows.
    """

    name: str
    denoiser_class: str
    rows: tuple[str, ...] = ()
    row_list: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    groups: tuple[int, ...] = (1, 2)
    components: tuple[str, ...] = ("transformer",)
    preview: str = "standard"
    is_loop_grouped: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.rows and not self.row_list:
            problems.append("`rows` and `row_list` are both empty: name the argument with latents")
        if not self.groups or min(self.groups) < 1:
            problems.append(f"`groups` is {self.groups}: give positive integers such as (1, 2)")
        if not self.components:
            problems.append("`components` is empty: name the pipeline attribute of the denoiser")
        if problems:
            raise ConfigError.from_problems(f"DenoiserFamily {self.name!r}", problems)

    @property
    def leading(self) -> str:
        """Name of the argument that holds the latents, one entry per denoiser row."""
        return (self.row_list or self.rows)[0]


_families: dict[str, DenoiserFamily] = {}


def declare_denoiser(family: DenoiserFamily) -> None:
    """Make pipelines with this denoiser class known to the row gate.

    Raises:
        DuplicateNameError: the class is declared already, with other content.
    """
    known = _families.get(family.denoiser_class)
    if known is not None and known != family:
        raise DuplicateNameError(
            f"Denoiser class {family.denoiser_class!r} is already declared as family "
            f"{known.name!r}; declare a subclass under its own name instead."
        )
    _families[family.denoiser_class] = family


def denoiser_classes() -> tuple[str, ...]:
    """Names of all declared denoiser classes, sorted."""
    return tuple(sorted(_families))


def denoiser_components() -> tuple[str, ...]:
    """Pipeline attributes that may hold a declared denoiser, in order of declaration."""
    return tuple(dict.fromkeys(name for f in _families.values() for name in f.components))


def family_of(denoiser: Any) -> DenoiserFamily:
    """The family of a denoiser module, found by the class names along its MRO.

    Raises:
        UnsupportedPipelineError: no class of the MRO is declared.
    """
    for cls in type(denoiser).__mro__:
        if cls.__name__ in _families:
            return _families[cls.__name__]
    name = type(denoiser).__name__
    raise UnsupportedPipelineError(
        f"Denoiser class {name!r} is not declared. Known: {', '.join(denoiser_classes())}. "
        f"Declare its batched arguments: {_EXAMPLE.format(denoiser=name)}"
    )


_BUILT_IN = (
    # Stable Diffusion 1.x, 2.x and SDXL.
    DenoiserFamily(
        name="stable-diffusion",
        denoiser_class="UNet2DConditionModel",
        rows=(
            "sample",
            "timestep",
            "encoder_hidden_states",
            "class_labels",
            "timestep_cond",
            "attention_mask",
            "encoder_attention_mask",
            "mid_block_additional_residual",
        ),
        nested=(
            "added_cond_kwargs",
            "cross_attention_kwargs",
            "down_block_additional_residuals",
            "down_intrablock_additional_residuals",
        ),
        components=("unet",),
    ),
    # Skip-layer guidance adds calls with a single group.
    DenoiserFamily(
        name="sd3",
        denoiser_class="SD3Transformer2DModel",
        rows=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"),
        nested=("block_controlnet_hidden_states", "joint_attention_kwargs"),
    ),
    DenoiserFamily(
        name="flux",
        denoiser_class="FluxTransformer2DModel",
        rows=(
            "hidden_states",
            "encoder_hidden_states",
            "pooled_projections",
            "timestep",
            "guidance",
        ),
        nested=(
            "joint_attention_kwargs",
            "controlnet_block_samples",
            "controlnet_single_block_samples",
        ),
        groups=(1,),
        preview="packed",
    ),
    DenoiserFamily(
        name="pixart",
        denoiser_class="PixArtTransformer2DModel",
        rows=(
            "hidden_states",
            "encoder_hidden_states",
            "timestep",
            "attention_mask",
            "encoder_attention_mask",
        ),
        nested=("added_cond_kwargs", "cross_attention_kwargs"),
    ),
    DenoiserFamily(
        name="sana",
        denoiser_class="SanaTransformer2DModel",
        rows=(
            "hidden_states",
            "encoder_hidden_states",
            "timestep",
            "guidance",
            "encoder_attention_mask",
            "attention_mask",
        ),
        nested=("attention_kwargs", "controlnet_block_samples"),
    ),
    # `img_shapes` is a list per prompt of which only the first entry is read: not rows.
    DenoiserFamily(
        name="qwen-image",
        denoiser_class="QwenImageTransformer2DModel",
        rows=(
            "hidden_states",
            "encoder_hidden_states",
            "encoder_hidden_states_mask",
            "timestep",
            "guidance",
            "additional_t_cond",
        ),
        nested=("attention_kwargs", "controlnet_block_samples"),
        groups=(1,),
        preview="packed-normalized",
    ),
    # `cfg_truncation` drops from two groups to one in the middle of a run.
    DenoiserFamily(
        name="z-image",
        denoiser_class="ZImageTransformer2DModel",
        rows=("t",),
        row_list=("x", "cap_feats", "siglip_feats", "image_noise_mask"),
        nested=("joint_attention_kwargs",),
    ),
    DenoiserFamily(
        name="wan",
        denoiser_class="WanTransformer3DModel",
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_hidden_states_image",
        ),
        nested=("attention_kwargs",),
        groups=(1,),
        components=("transformer", "transformer_2"),
        preview="video-normalized",
    ),
    # Guidance may be on for some steps only. `features` are those of an earlier step.
    DenoiserFamily(
        name="bfm",
        denoiser_class="BlockwiseTransformer",
        rows=(
            "hidden_states",
            "timestep",
            "class_labels",
            "features",
            "refresh",
            "residual_weight",
        ),
    ),
    DenoiserFamily(
        name="sit",
        denoiser_class="SiTTransformer2DModel",
        rows=("hidden_states", "timestep", "class_labels"),
    ),
    DenoiserFamily(
        name="dit",
        denoiser_class="DiTTransformer2DModel",
        rows=("hidden_states", "timestep", "class_labels"),
        nested=("cross_attention_kwargs",),
        is_loop_grouped=True,
    ),
    DenoiserFamily(
        name="diffusion-policy",
        denoiser_class="DiffusionPolicyTransformer",
        rows=("sample", "timestep", "cond"),
        groups=(1,),
    ),
)

for _family in _BUILT_IN:
    declare_denoiser(_family)
