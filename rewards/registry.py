"""All rewards by name, and loading one; other packages add theirs through the entry-point group."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from gensift.errors import ConfigError, MissingExtraError, UnknownNameError, nearest_hint
from gensift.hub import check_available
from gensift.registry import Registry
from gensift.zoo.catalog import ZOO, model_folder

if TYPE_CHECKING:
    from rewards.protocol import Reward

# What is registered are loaders: `loader(*, device, **options) -> Reward`.
REWARDS: Registry[Callable[..., Reward]] = Registry("reward", "gensift.rewards")
REWARDS.register(
    "aesthetic",
    "rewards.aesthetic:load_aesthetic",
    summary="How pleasing a picture is, about 1 to 10; prompts are not looked at.",
)
REWARDS.register(
    "clip-score",
    "rewards.open_clip_score:load_clip_score",
    summary="Cosine of an open_clip model's image and text features.",
)
REWARDS.register(
    "countdown",
    "rewards.countdown:load_countdown",
    summary="Whether an answer solves the Countdown problem of its prompt: 1 or 0.",
)
REWARDS.register(
    "hpsv2",
    "rewards.hpsv2:load_hpsv2",
    summary="HPS v2, how people would rank pictures of a prompt; a cosine of about 0.27.",
)
REWARDS.register(
    "hpsv2.1",
    "rewards.hpsv2:load_hpsv21",
    summary="HPS v2.1, trained on more choices than v2; a cosine of about 0.27.",
)
REWARDS.register(
    "imagereward",
    "rewards.imagereward:load_imagereward",
    summary="ImageReward v1.0, human preference, standardised: about -2.3 to 2.1.",
)
REWARDS.register(
    "pickscore",
    "rewards.pickscore:load_pickscore",
    summary="PickScore, human choices between pictures of a prompt; typically 18 to 25.",
)
REWARDS.register(
    "shapes-clip",
    "rewards.shapes:shapes_clip",
    summary="Cosine of a Shapes picture and its prompt, by the zoo's own CLIP.",
)
REWARDS.register(
    "shapes-verifier",
    "rewards.shapes:shapes_verifier",
    summary="Whether a Shapes picture holds exactly what its prompt names, in parts up to 1.",
)


def load_reward(
    spec: str, *, device: str = "cpu", noise_aware: str | bool = True, **options: Any
) -> Reward:
    """Load a reward.

    Args:
        spec: a registered name, or `module:function` for a reward of one's own; the module must be
            importable, and `function` is called with pictures and prompts.
        device: where a model runs; a reward from `module:function` decides for itself.
        noise_aware: folder of noise-aware weights for early estimates, as `gensift train-reward`
            writes; True takes those of the zoo, where there are any, False none.
        options: passed on to the loader of a registered reward, such as `scale` of `clip-score`.

    Raises:
        UnknownNameError: no reward is registered under this name.
        MissingExtraError: the module cannot be imported.
        ConfigError: the module has no such function, or the loader refuses an option.
    """
    if ":" in spec:
        if options:
            raise ConfigError(
                f"Reward {spec!r} takes no options, but {', '.join(options)} came; set them in "
                "its module."
            )
        return _with_noise_awareness(_import_reward(spec), spec, noise_aware)
    try:
        loader = REWARDS.get(spec)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} For your own, give module:function.") from error
    _check_options(spec, loader, options)
    return _with_noise_awareness(loader(device=device, **options), spec, noise_aware)


def check_reward(spec: str, options: Mapping[str, Any]) -> None:
    """Refuse a reward that cannot be had, without loading its weights.

    Args:
        spec: as in `load_reward`.
        options: of its loader; a loader says by `hub_source` beside it in its module what it
            fetches where the options do not name it themselves.

    Raises:
        GensiftError: as `load_reward` would; a `ConfigError` where it needs a model that is not in
            the local hub cache while the hub cannot be reached.
    """
    if ":" in spec:
        _import_reward(spec)
        return
    loader = REWARDS.get(spec)
    given = {name: value for name, value in options.items() if name != "noise_aware"}
    _check_options(spec, loader, given)
    bound = inspect.signature(loader).bind(device="cpu", **given)
    bound.apply_defaults()
    for source in _hub_sources(loader, bound.arguments):
        advice = "Give local files by --reward-option, or another --reward"
        check_available(source, f"Model {source!r} of reward {spec!r}", advice)


def _hub_sources(loader: Callable[..., Reward], arguments: Mapping[str, Any]) -> Iterator[str]:
    """Hub ids that a loader fetches: those among its arguments, and what its module knows."""
    own = getattr(sys.modules.get(getattr(loader, "__module__", "")), "hub_source", None)
    if own is not None:
        names = inspect.signature(own).parameters
        yield own(**{name: arguments[name] for name in names})
    yield from (value for value in arguments.values() if isinstance(value, str))


def _with_noise_awareness(reward: Reward, spec: str, noise_aware: str | bool) -> Reward:
    if not isinstance(noise_aware, str | bool):
        raise ConfigError(f"noise_aware is {noise_aware!r}; give a folder, true or false.")
    folder = _zoo_weights(spec) if noise_aware is True else noise_aware
    if not folder:
        return reward
    from rewards.noise_aware.storage import load_noise_aware

    return load_noise_aware(reward, folder)


def _zoo_weights(spec: str) -> str | None:
    """Folder of the zoo's noise-aware weights for a registered reward."""
    name = f"{spec}-noise-aware"
    return str(model_folder(name)) if name in ZOO else None


def _check_options(name: str, loader: Callable[..., Reward], options: dict[str, Any]) -> None:
    signature = inspect.signature(loader)
    try:
        signature.bind(device="cpu", **options)
    except TypeError as error:
        known = [option for option in signature.parameters if option != "device"]
        raise ConfigError(
            f"Reward {name!r} was given the options {', '.join(options) or 'none'}: {error}. "
            f"It takes: {', '.join(known) or 'none'}."
        ) from error


def _import_reward(spec: str) -> Reward:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ConfigError(f"Reward {spec!r} is malformed; write module:function.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise MissingExtraError(
            f"Reward {spec!r}: module {module_name!r} cannot be imported ({error}); install it, or "
            "put its folder on PYTHONPATH."
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        hint = nearest_hint(attribute, vars(module))
        raise ConfigError(f"Reward {spec!r}: {module_name!r} has no {attribute!r}.{hint}")
    if isinstance(found, type) or not callable(found):
        raise ConfigError(
            f"Reward {spec!r} is a {'class' if isinstance(found, type) else type(found).__name__}; "
            "name a function, or an object, that is called with pictures and prompts."
        )
    return cast("Reward", found)
