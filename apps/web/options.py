"""What `gensift app` can be told: where to serve, which models, and what a visitor may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apps.jobs.options import Dtype
from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """Options of `gensift app`."""

    host: str = option(
        "127.0.0.1", help="Address to serve on; 0.0.0.0 lets other machines on the network in."
    )
    port: int = option(7860, minimum=0, maximum=65535, help="Port to serve on; 0 takes a free one.")
    share: bool = option(False, help="Also serve through a public gradio.live address.")
    output: str = option("outputs/app", help="Folder that run folders are written to.")
    allow_model: tuple[str, ...] = option(
        (), help="Folder or hub id that visitors may choose besides the zoo; repeat it for several."
    )
    allow_reward: tuple[str, ...] = option(
        (), help="Reward that visitors may choose besides those of the zoo; repeat it for several."
    )
    device: str = option("auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")
    dtype: Dtype = option(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="float32, bfloat16, float16, or auto.",
    )
    max_candidates: int = option(64, minimum=1, help="Most candidates of a request.")
    max_steps: int = option(100, minimum=1, help="Most denoising steps of a request.")
    max_side: int = option(1024, minimum=8, help="Most pixels along a side of a picture.")
    max_prompt: int = option(500, minimum=1, help="Most characters of a prompt.")
    max_rows: int = option(
        50_000, minimum=1, help="Most denoiser rows of a request, or thousands of tokens."
    )
    max_seconds: int = option(300, minimum=1, help="Most seconds that a request may work.")
    max_waiting: int = option(32, minimum=1, help="Most requests that may wait or be worked on.")

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        if self.share and self.host not in ("127.0.0.1", "localhost", "0.0.0.0"):
            yield f"`share` needs a local `host`, not {self.host}"


PANELS = {
    "Where to serve": ("host", "port", "share", "output"),
    "What visitors may choose": ("allow_model", "allow_reward"),
    "What a request may ask for": (
        "max_candidates",
        "max_steps",
        "max_side",
        "max_prompt",
        "max_rows",
        "max_seconds",
        "max_waiting",
    ),
    "How to run": ("device", "dtype"),
}
