"""Code that makes a winner again without gensift's searches."""

from __future__ import annotations

from gensift.pipelines.loading import OWN_PIPELINES, device_of
from gensift.protocols import CallArguments, Pipeline
from gensift.zoo.catalog import ZOO
from samplers.output import PromptResult


def snippet(model: str, pipeline: Pipeline, result: PromptResult, call: CallArguments) -> str:
    """Python that draws the winner by a plain pipeline call.

    Args:
        model: zoo name, folder or hub id.
        pipeline: as it was loaded, for its class, device and dtype.
        result: the `PromptResult`; its first sample is the winner.
        call: keyword arguments that reproduce it together with its seed.
    """
    lines = ["import torch", *_loading(model, pipeline), ""]
    lines += [f"generator = torch.Generator().manual_seed({result.seeds[0]})", "picture = pipe("]
    lines += [f"    {result.prompt!r},", "    generator=generator,"]
    lines += [f"    {name}={value!r}," for name, value in call.items()]
    lines += [").images[0]", 'picture.save("winner.png")']
    return "\n".join(lines)


def _loading(model: str, pipeline: Pipeline) -> list[str]:
    device, dtype = str(device_of(pipeline)), str(pipeline.dtype)
    settings = "" if dtype == "torch.float32" else f", dtype={dtype}"
    move = "" if device == "cpu" else f'.to("{device}")'
    if type(pipeline).__name__ in OWN_PIPELINES:  # diffusers does not know its class
        return ["import gensift", "", f"pipe = gensift.load_pipeline({model!r}, device={device!r})"]
    imports = ["from diffusers import DiffusionPipeline"]
    where = repr(model)
    if model in ZOO:
        imports.append("from gensift.zoo.catalog import model_folder")
        where = f"model_folder({model!r})"
    return [*imports, "", f"pipe = DiffusionPipeline.from_pretrained({where}{settings}){move}"]
