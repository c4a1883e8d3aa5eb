"""Plain drawing and TTS-VAR with a next-scale model, for `benchmarks.gpu`.

Per size of the pictures:

* one_picture: the plain pipeline call, and the search engine that chooses nothing over it;
* attention: the native kernels against xformers, or why xformers cannot be used;
* tts_var_1, tts_var_2: the published schedule with so many finished candidates.

Tokens count those of both branches of guidance. Clusters are formed of the patch tokens of the
reward's own image tower, a ViT-L/14 like the DINOv2 of the paper. What random weights draw says
nothing about quality, so there is no figure of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.backends import compared_backends
from benchmarks.gpu_subject import PROMPT, Extent, Subject
from benchmarks.next_scale_runs import engine_over_plain, search_row
from benchmarks.overhead import plain_call
from benchmarks.timing import timed
from gensift.pipelines.infinity.schedules import schedule_for
from samplers.autoregressive.embeddings import OpenClipEmbedding
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.tts_var import TTSVAR
from samplers.autoregressive.var_best_of_n import VARBestOfN
from samplers.diffusion.schedule import UnitCosts

Part = Callable[[Subject, Extent, int, dict[str, UnitCosts]], dict[str, Any]]

SIZES = ("0.06M", "0.25M", "1M")
"""Millions of pixels; 256, 512 and 1024 to a side at 16 pixels a token."""
MEASURED_SIZE = "0.25M"
"""Where the cost of a token is measured: the smallest size leaves much of a GPU idle."""
COUNTS = (1, 2)
ROUND_COSTS = {"one_picture": 3.0, "attention": 4.0, "tts_var_1": 4.5, "tts_var_2": 9.0}
"""About how long a round takes, in plain pictures, with its share of the warm-up."""


def arguments_of(subject: Subject, size: str) -> dict[str, Any]:
    """Call arguments for pictures of a size."""
    rows, columns = schedule_for(size).scales[-1]
    pixels = subject.pipe.vae.downscale
    own = {"height": rows * pixels, "width": columns * pixels, "output_type": "pt"}
    return subject.arguments | own


def token_seconds(subject: Subject) -> float:
    """Seconds per token of a plain call, decoding included."""
    arguments = arguments_of(subject, MEASURED_SIZE)
    plain_call(subject.pipe, 1, **arguments)  # warm-up: first calls choose kernels
    seconds = timed(lambda: plain_call(subject.pipe, 1, **arguments), subject.device).seconds
    return seconds / _tokens_of_one(subject, MEASURED_SIZE)


def seconds_per_round(part: str, subject: Subject, found: dict[str, UnitCosts]) -> float:
    """About how long one round of `next_scale.SIZE.PART` takes."""
    size, _, name = part.removeprefix("next_scale.").rpartition(".")
    return ROUND_COSTS[name] * _tokens_of_one(subject, size) * found["seconds"].step


def one_picture(
    size: str, subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """The pipeline alone, and the engine over it."""
    return engine_over_plain(subject.pipe, 1, rounds, subject.device, arguments_of(subject, size))


def attention(
    size: str, subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Seconds per picture by the attention kernels; latents, no decode."""
    arguments = arguments_of(subject, size) | {"output_type": "latent"}

    def seconds() -> float:
        return timed(lambda: plain_call(subject.pipe, 1, **arguments), subject.device).seconds

    return compared_backends(subject, rounds, "seconds_per_picture", seconds)


def tts_var(
    size: str,
    count: int,
    subject: Subject,
    extent: Extent,
    rounds: int,
    found: dict[str, UnitCosts],
) -> dict[str, Any]:
    """TTS-VAR with `count` finished candidates."""
    sampler, arguments = _tts_var(subject, count), arguments_of(subject, size)
    row = search_row(subject.pipe, sampler, rounds, subject.device, arguments)
    return row | {"planned_tokens": _planned_tokens(subject, size, sampler)}


def _tokens_of_one(subject: Subject, size: str) -> int:
    return _planned_tokens(subject, size, VARBestOfN(None, num_candidates=1))


def _tts_var(subject: Subject, count: int) -> TTSVAR:
    embed = OpenClipEmbedding(subject.reward.model, subject.reward.preprocess)
    return TTSVAR(subject.reward, num_candidates=count, embed=embed)


def _planned_tokens(subject: Subject, size: str, sampler: NextScaleSearch) -> int:
    return sampler.plan(subject.pipe, PROMPT, **arguments_of(subject, size)).cost.tokens


def _parts_of(size: str) -> dict[str, Part]:
    searches = {f"tts_var_{count}": partial(tts_var, size, count) for count in COUNTS}
    return {
        "one_picture": partial(one_picture, size),
        "attention": partial(attention, size),
        **searches,
    }


PARTS: Mapping[str, Mapping[str, Part]] = {size: _parts_of(size) for size in SIZES}
