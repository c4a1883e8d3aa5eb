"""The model that a training begins with: a new one, a finished one, or a dense one, split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from apps.training.bfm.initial import initialise
from apps.training.bfm.options import BFMTraining
from apps.training.bfm.parts import load_part
from gensift.errors import ConfigError
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.sizes import BFM_SIZES
from gensift.pipelines.bfm.split import SplitTransformer2DModel, split_dense
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

SEGMENTS = 6
_OWN_NUMBERS = (
    "hidden_size",
    "num_heads",
    "trunk_depth",
    "segment_depth",
    "frn_depth",
    "adaln_rank",
)


@dataclass(frozen=True)
class LatentShape:
    """What the data ask of a model.

    Attributes:
        sample_size: side of the latents.
        in_channels: of the latents.
        num_classes: without the null class.
    """

    sample_size: int
    in_channels: int
    num_classes: int


@dataclass(frozen=True)
class Start:
    """A model to train, and the dense one that teaches it, if any."""

    transformer: Any
    teacher: Any = None


def start_model(
    config: BFMTraining,
    shape: LatentShape,
    *,
    init: str | None = None,
    from_dense: str | None = None,
) -> Start:
    """The model that `config` describes; first weights depend on its seed alone.

    Args:
        config: sizes of a new model; with `init` or `from_dense` those that are given must agree.
        shape: of the data.
        init: finished blockwise model to go on from; a missing FRN is added when it is trained.
        from_dense: finished `SiTTransformer2DModel` to split.

    Raises:
        ConfigError: sizes do not fit together, or a folder is not what it should be.
    """
    if init is not None and from_dense is not None:
        raise ConfigError("Both --init and --from-dense were given; give one of them.")
    if config.joint_steps and init is None:
        raise ConfigError("`joint_steps` go on from a finished model; name it by --init.")
    # The caller's own stream of random numbers goes on as if nothing had been drawn.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        if from_dense is not None:
            start = _split(config, from_dense)
        elif init is not None:
            start = Start(_finished(config, init))
        else:
            start = Start(_new(config, shape))
    source = init or from_dense
    if source is not None:
        _check_shape(start.transformer, shape, source)
        _check_numbers(start.transformer, config, source)
    return start


def _new(config: BFMTraining, shape: LatentShape) -> Any:
    own = {name: getattr(config, name) for name in _OWN_NUMBERS}
    sizes = BFM_SIZES[config.size] | {k: v for k, v in own.items() if v is not None}
    if not config.trains_approximation:
        sizes["frn_depth"] = 0
    transformer = BFMTransformer2DModel(
        num_segments=_segments(config),
        boundaries=config.boundaries,
        patch_size=config.patch_size,
        **vars(shape),
        **sizes,
    )
    initialise(transformer)
    return transformer


def _split(config: BFMTraining, source: str) -> Start:
    if config.trunk_depth is None:
        raise ConfigError(
            "--from-dense needs `trunk_depth`; give --trunk-depth, the number of its first blocks "
            "that all segments share."
        )
    if not (config.steps and config.frn_steps) or config.frn_depth == 0:
        raise ConfigError(
            "--from-dense trains FRN, then the stacks with it; `frn_depth`, `frn_steps` and "
            "`steps` must be above 0."
        )
    dense = load_part(
        source, "transformer", {SiTTransformer2DModel.__name__: SiTTransformer2DModel}
    )
    split = split_dense(
        dense,
        _segments(config),
        config.trunk_depth,
        frn_depth=_approximation_depth(config),
        boundaries=config.boundaries,
        adaln_rank=config.adaln_rank,
    )
    initialise(split.frn)
    return Start(split, dense)


def _finished(config: BFMTraining, source: str) -> Any:
    classes = {cls.__name__: cls for cls in (BFMTransformer2DModel, SplitTransformer2DModel)}
    transformer = load_part(source, "transformer", classes)
    if transformer.has_approximation and config.steps and not config.trains_approximation:
        raise ConfigError(
            f"{source!r} has an FRN, which would not fit its trunk any more after stage 1; give "
            "--frn-steps above 0, so that it is trained again."
        )
    if transformer.has_approximation or not config.trains_approximation:
        return transformer
    return with_approximation(transformer, _approximation_depth(config))


def with_approximation(transformer: Any, depth: int) -> Any:
    """The same model with an untrained FRN of so many blocks, which holds features at first."""
    larger = type(transformer).from_config({**transformer.config, "frn_depth": depth})
    initialise(larger.frn)
    new = {f"frn.{key}": value for key, value in larger.frn.state_dict().items()}
    larger.load_state_dict(transformer.state_dict() | new)
    return larger


def _segments(config: BFMTraining) -> int:
    if config.num_segments is not None:
        return config.num_segments
    return SEGMENTS if config.boundaries is None else len(config.boundaries) - 1


def _approximation_depth(config: BFMTraining) -> int:
    return config.frn_depth or BFM_SIZES[config.size]["frn_depth"]


def _check_shape(transformer: Any, shape: LatentShape, source: str) -> None:
    wrong = [
        f"`{name}` {transformer.config[name]} instead of {wanted}"
        for name, wanted in vars(shape).items()
        if transformer.config[name] != wanted
    ]
    if wrong:
        raise ConfigError(
            f"{source!r} does not fit these pictures and this VAE: it has {', '.join(wrong)}; "
            "change --image-size or --vae, or give pictures of its own classes."
        )


def _check_numbers(transformer: Any, config: BFMTraining, source: str) -> None:
    given = {name: getattr(config, name) for name in _OWN_NUMBERS}
    given |= {"num_segments": config.num_segments, "boundaries": config.boundaries}
    found = {**transformer.config, "boundaries": transformer.boundaries}
    wrong = [
        f"`{name}` is {value}, but that has {found[name]}"
        for name, value in given.items()
        if value is not None and value != found[name]
    ]
    if wrong:
        raise ConfigError.from_problems(f"Sizes of {source!r}", [*wrong, "leave them out"])
