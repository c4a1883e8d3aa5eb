"""Pictures forming: early estimates of all candidates while a diffusion search runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from PIL import Image

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.observer import StepEvent
from gensift.pipelines.loading import call_defaults, load_preview_decoder
from gensift.protocols import CallArguments, Pipeline
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.callback import observe_steps
from samplers.diffusion.preview import Previewer
from samplers.scoring import thumbnail

PICTURES_PER_LOOP = 10
"""Times that the candidates are shown while the loop runs."""

OnPreviews = Callable[[int, Mapping[int, Image.Image]], None]


@contextmanager
def forming_pictures(
    pipe: Pipeline,
    prompt: str,
    call: CallArguments,
    num_candidates: int,
    show: OnPreviews,
    is_wanted: Callable[[], bool],
) -> Iterator[bool]:
    """Show x0 estimates of the living candidates while the pipeline runs inside the block.

    Only where a tiny decoder comes with the model: the full VAE would cost more than the search.
    They change nothing and are counted in no cost. Yields whether pictures will be shown.
    """
    previewer = _previewer(pipe, prompt, call)
    if previewer is None:
        yield False
        return

    def on_step(event: StepEvent) -> None:
        every = max(1, event.num_inference_steps // PICTURES_PER_LOOP)
        is_turn = (event.step_index + 1) % every == 0 and not event.is_last
        if not is_turn or len(event.latents) != num_candidates or not is_wanted():
            return
        alive = list(event.live_rows or range(num_candidates))
        pictures = previewer.decode(event.pred_original_sample[alive])
        shown = [thumbnail(picture) for picture in pictures]
        show(event.step_index + 1, dict(zip(alive, shown, strict=True)))

    with observe_steps(pipe, on_step):
        yield True


def _previewer(pipe: Pipeline, prompt: str, call: CallArguments) -> Previewer | None:
    if getattr(pipe, "scheduler", None) is None:
        return None
    decoder = load_preview_decoder(pipe, "auto")
    if decoder is None:
        return None
    arguments = call_defaults(pipe) | dict(call) | {"prompt": [prompt]}
    height, width = PipelineCall.bind(pipe, type(pipe).__call__, (), arguments).size
    return Previewer(BoundPipeline.of(pipe), height, width, decoder=decoder)
