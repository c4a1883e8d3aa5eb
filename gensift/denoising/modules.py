"""Finding the denoisers of a pipeline and putting hooks on modules.

The only module of this project that touches names which diffusers does not document.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from diffusers import ConfigMixin, FluxPipeline
from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from diffusers.models.attention_dispatch import AttentionBackendName as AttentionBackendName
from diffusers.models.attention_dispatch import attention_backend as attention_backend
from diffusers.models.attention_dispatch import dispatch_attention_fn as dispatch_attention_fn
from diffusers.models.embeddings import get_timestep_embedding as get_timestep_embedding
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import get_module_execution_device, unwrap_module

from gensift.denoising.copies import (
    State,
    attribute_before,
    cannot_be_copied,
    leave_out_of_copies,
    without_attribute,
)
from gensift.denoising.families import DenoiserFamily, denoiser_components, family_of
from gensift.errors import UnsupportedPipelineError
from gensift.protocols import AnyFunction, Pipeline, Scheduler

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_numbers = itertools.count()
_PREFIX = "gensift_"


def denoisers_of(pipe: Pipeline) -> list[torch.nn.Module]:
    """The denoisers of a pipeline, out of any torch.compile wrapper; two for two-expert Wan.

    Raises:
        UnsupportedPipelineError: there is none.
    """
    modules = [unwrapped(getattr(pipe, name, None)) for name in denoiser_components()]
    found = [module for module in modules if isinstance(module, torch.nn.Module)]
    if not found:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has no denoiser in any of {', '.join(denoiser_components())}. "
            "Declare it with gensift.denoising.families.declare_denoiser(DenoiserFamily(..., "
            'components=("attribute",))).'
        )
    return found


def family_of_pipeline(pipe: Pipeline) -> DenoiserFamily:
    """The family of the pipeline's denoiser.

    Raises:
        UnsupportedPipelineError: no denoiser, or one whose class is not declared.
    """
    return family_of(denoisers_of(pipe)[0])


def execution_device(module: torch.nn.Module) -> torch.device:
    """Where inputs of the module must lie; offloaded modules are called away from their weights."""
    device: torch.device = get_module_execution_device(module)
    return device


def execution_device_of(pipe: Pipeline) -> torch.device:
    """Where the inputs of a pipeline's models must lie, also while these are offloaded."""
    own: torch.device | str = getattr(pipe, "device", "cpu")
    device: torch.device | None = getattr(pipe, "_execution_device", None)
    return torch.device(own) if device is None else device


def moved_for_call(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a model's method beside `forward`, so that offloading fetches the model for it."""
    found: Callable[Parameters, Result] = apply_forward_hook(method)
    return found


def takes_attention_backend(processor: object) -> bool:
    """Whether an attention processor goes by the backend that is set for its model."""
    return hasattr(processor, "_attention_backend")


def config_arguments(model_class: type[ConfigMixin]) -> set[str]:
    """Names of what the constructor of a model class takes from a config."""
    return set(model_class._get_init_keys(model_class)) - {"self"}


def flux_tokens(latents: torch.Tensor) -> torch.Tensor:
    """FLUX latents `(batch, channels, height, width)` as its tokens, four pixels each."""
    packed: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def flux_token_places(height: int, width: int) -> torch.Tensor:
    """Places `(height * width, 3)`, float32 on the CPU, of FLUX tokens in rows and columns."""
    places: torch.Tensor = FluxPipeline._prepare_latent_image_ids(
        1, height, width, torch.device("cpu"), torch.float32
    )
    return places


def move_scheduler(scheduler: Scheduler, step: int) -> None:
    """Make `step` the next one that a scheduler takes from its table of sigmas, in mid-run.

    Schedulers without such a table (DDIM) go by the timestep alone; nothing is to be done there.
    """
    if hasattr(scheduler, "_step_index"):
        vars(scheduler)["_step_index"] = step


def unwrapped(module: Any) -> Any:
    """A module out of its torch.compile wrapper."""
    return unwrap_module(module)


def is_compiled_whole(pipe: Pipeline) -> bool:
    """Whether torch.compile was given a denoiser of the pipeline, and not just its blocks."""
    given = [getattr(pipe, name, None) for name in denoiser_components()]
    modules = [module for module in given if isinstance(module, torch.nn.Module)]
    return any(
        unwrapped(module) is not module or module._compiled_call_impl is not None
        for module in modules
    )


def feed_forward_chunk(block: torch.nn.Module) -> int | None:
    """Chunk size of a block that calls its feed-forward once per chunk; None where it does not."""
    chunk: int | None = getattr(block, "_chunk_size", None)
    return chunk


def hooks_on(module: torch.nn.Module) -> list[Any]:
    """Hooks of diffusers' registry on this very module, the outermost last."""
    registry = getattr(module, "_diffusers_hook", None)
    return list(registry.hooks.values()) if registry is not None else []


class ForwardHook(ModelHook):
    """A hook whose `new_forward(module, *args, **kwargs)` stands in for the forward of a module."""

    @property
    def plain_forward(self) -> Callable[..., Any]:
        """The forward that it stands in for."""
        found: Callable[..., Any] = self.fn_ref.original_forward
        return found


class ContextHook(ForwardHook):
    """A hook that is told the name of the pipeline's context, and when a pipeline call ends.

    Attributes:
        context: where it is told.
    """

    # diffusers tells only stateful hooks; it looks for the attribute in which it leaves the name.
    _is_stateful = True

    def __init__(self) -> None:
        super().__init__()
        self.context = ContextName()


class AttachedHook:
    """A hook on a module, and the way back; the module is as before once it is removed."""

    def __init__(self, module: torch.nn.Module, hook: ModelHook, kind: str) -> None:
        """Register `hook` as the outermost one, under a name that begins with `kind`."""
        self.module, self.hook = module, hook
        self._name = f"{_PREFIX}{kind}_{next(_numbers)}"
        before = attribute_before(module, "forward")
        self._had_forward = "forward" in vars(module)
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, self._name)
        self._installed = vars(module)["forward"]
        take_off = without_attribute(module, "forward", before)

        def leave_out(state: State) -> None:
            take_off(state)
            registry = state.pop("_diffusers_hook", None)
            if any(not name.startswith(_PREFIX) for name in getattr(registry, "hooks", ())):
                raise cannot_be_copied(module)

        self._forget = leave_out_of_copies(module, leave_out)

    def remove(self) -> None:
        """Take the hook off, if it is the outermost; below another one it stays."""
        hooks = hooks_on(self.module)
        # The registry can only take off its last hook.
        if not hooks or hooks[-1] is not self.hook:
            return
        self._forget()
        own = vars(self.module)
        current = own.get("forward")
        registry = HookRegistry.check_if_exists_or_initialize(self.module)
        registry.remove_hook(self._name, recurse=False)
        if current is None or (current is self._installed and not self._had_forward):
            own.pop("forward")
        elif current is not self._installed:
            # Offloading has rebuilt `forward` since; the registry has just put back a stale one.
            own["forward"] = current

    @property
    def is_reached(self) -> bool:
        """Whether a call of the module still comes by the hook, as far as can be told."""
        # Model offloading wraps `forward` anew after each call, around what it found at first.
        forward, plain = self.module.forward, type(self.module).forward
        while forward is not self._installed:
            # Many a class has decorated its forward, so that this has something wrapped too.
            if getattr(forward, "__func__", forward) is plain:
                return False
            if not hasattr(forward, "__wrapped__"):
                return True
            forward = forward.__wrapped__
        return True


class ReplacedMethod:
    """A method of one module replaced by a function, and the way back."""

    def __init__(
        self, module: torch.nn.Module, name: str, around: Callable[[AnyFunction], Any]
    ) -> None:
        """Call `around(plain)` instead of the method `name`, given the method as it was."""
        self._module, self._name = module, name
        self._before = vars(module).get(name)
        before = attribute_before(module, name)
        self._installed = around(getattr(module, name))
        setattr(module, name, self._installed)
        self._forget = leave_out_of_copies(module, without_attribute(module, name, before))

    def remove(self) -> None:
        """Put the method back, unless something else has replaced it since."""
        self._forget()
        own = vars(self._module)
        if own.get(self._name) is not self._installed:
            return
        if self._before is None:
            del own[self._name]
        else:
            own[self._name] = self._before


class ContextName(StateManager):
    """Attribute of a stateful hook by which it learns the name given to `cache_context`."""

    def __init__(self) -> None:
        super().__init__(BaseState)

    @property
    def name(self) -> str | None:
        """The pipeline's name for the present call, "cond" or "uncond" mostly; None without one."""
        # diffusers 0.40 keeps the name itself, later releases a record of it.
        context = getattr(self, "_context", None) or getattr(self, "_current_context", None)
        return context if isinstance(context, str) else getattr(context, "name", None)
