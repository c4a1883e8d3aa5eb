"""Prompts of class-conditional models: the name of a class."""

from __future__ import annotations

from collections.abc import Sequence

from gensift.errors import ConfigError, nearest_hint


def labels_of_prompts(prompts: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """The class of each prompt, which must be its name; case and spaces do not matter.

    Raises:
        ConfigError: no class has that name, or the classes have no names.
    """
    if not classes:
        raise ConfigError(
            "`prompt` was given, but the classes of this model have no names; give `class_labels`, "
            "or name them: `BFMPipeline(..., classes=[...])`."
        )
    known = {_plain(name): label for label, name in enumerate(classes)}
    for prompt in prompts:
        if not isinstance(prompt, str) or _plain(prompt) not in known:
            shown, hint = ", ".join(classes[:4]), nearest_hint(str(prompt), known)
            raise ConfigError(
                f"Prompt {prompt!r} names no class of this model.{hint} "
                f"It has {len(classes)}: {shown}{', ...' if len(classes) > 4 else ''}."
            )
    return [known[_plain(prompt)] for prompt in prompts]


def checked_labels(given: int | Sequence[int], num_classes: int) -> list[int]:
    """Class labels as a list.

    Raises:
        ConfigError: there is none, or one is out of range.
    """
    labels = [given] if isinstance(given, int) else [int(label) for label in given]
    if not labels or min(labels) < 0 or max(labels) >= num_classes:
        raise ConfigError(
            f"`class_labels` is {given!r}; give whole numbers from 0 to {num_classes - 1}."
        )
    return labels


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
