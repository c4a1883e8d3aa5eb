"""What a search did: who was alive at each stage, how they scored, and who was kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gensift.conversion import strict_json
from gensift.errors import ConfigError
from gensift.sifting_tree import DPI, draw, show
from gensift.stages import PromptTrace, Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["PromptTrace", "Stage", "Trace"]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The search for each prompt of a run, in the order of the prompts."""

    prompts: tuple[PromptTrace, ...] = ()

    def to_json(self, *, with_previews: bool = False, indent: int | None = None) -> str:
        """Return strict JSON; non-finite floats as the texts "nan", "inf" and "-inf"."""
        prompts = [prompt.to_dict(with_previews=with_previews) for prompt in self.prompts]
        return strict_json({"prompts": prompts}, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Inverse of `to_json`.

        Raises:
            ConfigError: if `text` is not a trace.
        """
        try:
            prompts = json.loads(text)["prompts"]
            return cls(prompts=tuple(PromptTrace.from_dict(prompt) for prompt in prompts))
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"Not a trace written by `Trace.to_json` ({error!r}).") from error

    def picture(self, images: Sequence[Mapping[int, Image]] | None = None) -> Image:
        """Draw the sifting tree, one panel per prompt, as an RGB picture 1760 pixels wide.

        Rows are the stages from noisy to final. `images` holds, per prompt, the finished pictures
        by candidate index; they are shown at the final stage.
        """
        return draw(self.prompts, images or ()).paint(DPI)

    def plot(
        self,
        path: str | Path | None = None,
        images: Sequence[Mapping[int, Image]] | None = None,
    ) -> Figure:
        """The tree of `picture` as a matplotlib figure, saved to `path` if given."""
        figure = show(self.picture(images))
        if path is not None:
            figure.savefig(path)
        return figure
