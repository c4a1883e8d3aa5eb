"""Loading a pipeline by zoo name, local folder or hub id, and the call arguments it needs."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gensift.errors import ConfigError, DeviceError, nearest_hint
from gensift.hub import (
    cached_file,
    check_available,
    foreign_errors,
    is_hub_away,
    is_hub_id,
    is_offline,
)
from gensift.json_files import DamagedError, read_object
from gensift.protocols import Pipeline
from gensift.zoo.catalog import ZOO, model_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
PREVIEW_DECODER = "preview_decoder"
"""Folder in a model folder that holds a tiny decoder of its latents."""
CALL_DEFAULTS = "gensift.json"
"""File in a model folder that holds keyword arguments its pipeline call needs."""
_MODEL_ADVICE = "Give a zoo model, a complete folder, or a hub id that can be fetched"
OWN_PIPELINES = {
    "BFMPipeline": "gensift.pipelines.bfm.pipeline",
    "DiffusionPolicyPipeline": "gensift.pipelines.policy.pipeline",
    "InfinityPipeline": "gensift.pipelines.infinity.pipeline",
    "LLaDAPipeline": "gensift.pipelines.llada.pipeline",
    "VARPipeline": "gensift.pipelines.var.pipeline",
}
"""Pipelines that diffusers does not know -> the module of each."""


def load_pipeline(
    name_or_path: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    attention_backend: str | None = None,
    scheduler: str | None = None,
    cpu_offload: bool = False,
) -> DiffusionPipeline:
    """Load a diffusers pipeline.

    Args:
        name_or_path: a zoo name, a local model folder, or a hub id such as
            "black-forest-labs/FLUX.1-dev". A LLaDA checkpoint as it is published will do, too.
        dtype: "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "auto" takes a GPU when there is one.
        attention_backend: name that diffusers' `set_attention_backend` knows.
        scheduler: class of diffusers that takes the place of the model's own, with its config.
        cpu_offload: keep each component on the CPU while it is not used; needs a GPU.

    Raises:
        ConfigError: there is no such model or scheduler, or it is not a pipeline.
        DeviceError: the device is absent.
    """
    target = resolve_device(device)
    if cpu_offload and target == "cpu":
        raise DeviceError("cpu_offload moves parts off a GPU, but the device is cpu; leave it out.")
    pipe = _load(str(name_or_path), _resolve_dtype(dtype, target))
    if scheduler is not None:
        _set_scheduler(pipe, scheduler)
    if attention_backend is not None:
        from gensift.pipelines.attention import set_attention_backend

        set_attention_backend(pipe, attention_backend, target)
    if cpu_offload:
        pipe.enable_model_cpu_offload(device=target)
    else:
        pipe.to(target)
    return pipe


def call_defaults(pipeline: Pipeline) -> dict[str, Any]:
    """Keyword arguments that the pipeline's model folder asks for (size, steps, guidance).

    Read from the folder's `gensift.json`; empty for models without one.
    """
    folder = model_folder_of(pipeline)
    if folder is None or not (file := folder / CALL_DEFAULTS).is_file():
        return {}
    try:
        defaults: dict[str, Any] = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no JSON object ({error}); mend or remove it.") from error
    return defaults


def load_preview_decoder(pipeline: Pipeline, spec: str) -> Any:
    """The `AutoencoderTiny` that decodes early estimates, or None for the pipeline's own VAE.

    Args:
        pipeline: whose latents it decodes; its device and dtype are taken over.
        spec: "auto" for the folder `preview_decoder` of the pipeline's model folder, where there is
            one; "vae" for None; else a folder or a hub id such as "madebyollin/taef1".

    Raises:
        ConfigError: no such decoder, or one for latents of another size.
    """
    if spec == "vae":
        return None
    if spec == "auto":
        model = model_folder_of(pipeline)
        if model is None or not (model / PREVIEW_DECODER / "config.json").is_file():
            return None
        spec = str(model / PREVIEW_DECODER)
    decoder = _read_preview_decoder(spec, pipeline.vae.dtype, str(device_of(pipeline)))
    config = pipeline.vae.config
    wanted = config.get("latent_channels", config.get("z_dim"))  # video VAEs say z_dim
    given = decoder.config.latent_channels
    if given != wanted:
        raise ConfigError(
            f"Preview decoder {spec!r} is for latents of {given} channels, those of "
            f"{type(pipeline).__name__} have {wanted}; give one of this model's family, or vae."
        )
    return decoder


@functools.lru_cache(maxsize=2)
def _read_preview_decoder(location: str, dtype: Any, device: str) -> Any:
    from diffusers import AutoencoderTiny

    if not Path(location).is_dir() and not is_hub_id(location):
        raise ConfigError(
            f"Preview decoder {location!r} is neither a folder nor a hub id (owner/name); give one "
            "of those, auto or vae."
        )
    advice = "Give a folder or hub id of an AutoencoderTiny, or vae"
    with foreign_errors(f"Preview decoder {location!r}", advice, location):
        decoder = AutoencoderTiny.from_pretrained(
            location, dtype=dtype, use_safetensors=True, local_files_only=is_offline(location)
        )
    return decoder.to(device).eval()


def device_of(pipeline: Pipeline) -> Any:
    """Where a pipeline runs, also while its parts are offloaded."""
    from gensift.denoising.modules import execution_device_of

    return execution_device_of(pipeline)


def model_folder_of(pipeline: Pipeline) -> Path | None:
    """The folder that a pipeline was loaded from; None for one that was put together or fetched."""
    config = getattr(pipeline, "config", {})
    known = config if isinstance(config, Mapping) else {}
    folder = Path(str(known.get("_name_or_path") or "."))
    # A pipeline without a folder of its own takes nothing from the current one.
    return folder if (folder / "model_index.json").is_file() else None


def resolve_device(name: str) -> str:
    """Turn "auto" into a device and check that a named one is there.

    Raises:
        DeviceError: the device is absent or its name means nothing to torch.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"Device {name!r} is unknown; use cpu, cuda, cuda:N or mps.") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"Device {name!r} is not supported; use cpu, cuda, cuda:N or mps.")
    if device.type == "cpu":
        return "cpu"
    missing = {
        "cuda": not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }.get(device.type, False)
    if missing:
        raise DeviceError(f"Device {name!r} was asked for but is absent here; use --device cpu.")
    return name


def _resolve_dtype(dtype: Dtype, device: str) -> Any:
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ConfigError(f"dtype {dtype!r} is unknown; use auto, {', '.join(known)}.")
    return known[dtype]


def _load(name: str, dtype: Any) -> Any:
    location = _locate(name)
    with foreign_errors(f"Model {name!r}", _MODEL_ADVICE, location):
        folder = Path(location) if Path(location).is_dir() else _llada_folder(location)
        if folder is not None and is_llada_checkpoint(folder):
            from gensift.pipelines.llada.checkpoint import load_published

            return load_published(folder, dtype)
        return _pipeline_class(location).from_pretrained(
            location, dtype=dtype, use_safetensors=True, local_files_only=is_offline(location)
        )


def check_model(name: str) -> None:
    """Refuse, without loading anything, a model that is not there and cannot be fetched.

    Raises:
        ConfigError: it is no zoo model, folder or hub id, or neither in the local hub cache nor
            within reach.
    """
    location = _locate(name)
    check_available(location, f"Model {name!r}", _MODEL_ADVICE)
    folder = Path(location)
    if (folder / "model_index.json").is_file():
        _check_folder(name, folder)


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a pipeline's folder of which something is missing, from its index alone."""
    try:
        index = read_object(folder / "model_index.json")
    except DamagedError as error:
        raise _not_loadable(name, f"of its model_index.json, {error}") from error
    pipeline_class = index.get("_class_name")
    if pipeline_class not in OWN_PIPELINES:
        import diffusers

        if not hasattr(diffusers, str(pipeline_class)):
            raise _not_loadable(name, f"diffusers has no {pipeline_class}")
    for component, source in index.items():
        is_part = isinstance(source, list) and len(source) == 2 and source[0] is not None
        if is_part and not component.startswith("_") and not (folder / component).is_dir():
            raise _not_loadable(name, f"its part {component} is missing")


def _not_loadable(name: str, reason: str) -> ConfigError:
    return ConfigError(f"Model {name!r} cannot be loaded: {reason}. {_MODEL_ADVICE}.")


def is_llada_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a LLaDA checkpoint as it is published, which is no pipeline."""
    config = folder / "config.json"
    if (folder / "model_index.json").exists() or not config.is_file():
        return False
    try:
        return bool(json.loads(config.read_text()).get("model_type") == "llada")
    except (ValueError, AttributeError):
        return False


def _llada_folder(hub_id: str) -> Path | None:
    """The local copy of a LLaDA checkpoint of the hub; None for a pipeline of diffusers.

    What the local cache knows is not asked of the hub.
    """
    if cached_file(hub_id, "model_index.json") is not None:
        return None
    config = cached_file(hub_id, "config.json")
    if config is not None and is_llada_checkpoint(config.parent):
        return _fetched(hub_id)
    if is_hub_away():
        return None  # what loads pipelines says what is wrong
    from huggingface_hub import file_exists

    is_pipeline = file_exists(hub_id, "model_index.json") or not file_exists(hub_id, "config.json")
    return None if is_pipeline else _fetched(hub_id)


def _fetched(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"]
    return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=is_hub_away()))


def _locate(name: str) -> str:
    """The folder of a zoo model or a local folder; a hub id is left as it is."""
    folder = model_folder(name) if name in ZOO else Path(name)
    if folder.is_dir():
        if is_llada_checkpoint(folder):
            return str(folder)
        if not (folder / "model_index.json").is_file():
            raise ConfigError(
                f"{name!r} is no diffusers pipeline: {folder} has no model_index.json. Give a "
                "folder that `save_pretrained` of a pipeline wrote."
            )
        return str(folder)
    if not is_hub_id(name):
        raise ConfigError(
            f"Model {name!r} is neither a zoo model nor a folder nor a hub id (owner/name)."
            f"{nearest_hint(name, ZOO)} Zoo: {', '.join(ZOO)}."
        )
    return name


def _pipeline_class(location: str) -> Any:
    """The class that loads `location`: one of ours, or that which finds diffusers' own."""
    from diffusers import DiffusionPipeline

    name = DiffusionPipeline.load_config(location, local_files_only=is_offline(location)).get(
        "_class_name"
    )
    if name in OWN_PIPELINES:
        return getattr(importlib.import_module(OWN_PIPELINES[name]), name)
    return DiffusionPipeline


def _set_scheduler(pipe: Any, name: str) -> None:
    if getattr(pipe, "scheduler", None) is None:
        raise ConfigError(
            f"{type(pipe).__name__} has no scheduler; {name!r} was asked for, leave it out."
        )
    known = {cls.__name__: cls for cls in pipe.scheduler.compatibles} | {
        type(pipe.scheduler).__name__: type(pipe.scheduler)
    }
    if name not in known:
        raise ConfigError(
            f"Scheduler {name!r} does not fit {type(pipe).__name__}.{nearest_hint(name, known)} "
            f"Fitting: {', '.join(sorted(known))}."
        )
    pipe.scheduler = known[name].from_config(pipe.scheduler.config)
