"""Prompts of the Shapes world: their meaning, wording, parsing, and truth in a scene."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal

from gensift.errors import ConfigError
from gensift.zoo.shapes.world import COLOURS, RELATION_MARGIN, SHAPES, Kind, Scene

Centre = tuple[float, float]
Relation = Literal["and", "left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
OPPOSITE: dict[Relation, Relation] = {
    "and": "and",
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
NUMBERS = {"two": 2, "three": 3, "four": 4}
KINDS: tuple[Kind, ...] = tuple(product(COLOURS, SHAPES))


@dataclass(frozen=True)
class Meaning:
    """What a prompt asks for: `count` objects of one kind, or two kinds and their relation."""

    first: Kind
    count: int = 1
    relation: Relation | None = None
    second: Kind | None = None

    @property
    def wanted(self) -> Counter[Kind]:
        """How many objects of each kind a true picture holds."""
        if self.second is None:
            return Counter({self.first: self.count})
        return Counter([self.first, self.second])

    @property
    def canonical(self) -> Meaning:
        """The one form shared by all wordings of this meaning."""
        return min(self, self.reversed(), key=_sort_key)

    def reversed(self) -> Meaning:
        """The same meaning said from the second object's side."""
        if self.second is None or self.relation is None:
            return self
        return Meaning(self.second, 1, OPPOSITE[self.relation], self.first)

    def __str__(self) -> str:
        """The wording."""
        if self.second is not None:
            joint = self.relation
            return f"{_article(self.first)} {joint} {_article(self.second)}"
        if self.count == 1:
            return _article(self.first)
        word = next(name for name, number in NUMBERS.items() if number == self.count)
        colour, shape = self.first
        return f"{word} {colour} {_plural(shape)}"


def _sort_key(meaning: Meaning) -> tuple[Kind, str, Kind]:
    return meaning.first, meaning.relation or "", meaning.second or ("", "")


def _article(kind: Kind) -> str:
    colour, shape = kind
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def all_meanings() -> list[Meaning]:
    """Every prompt of the grammar, once per wording (24 + 72 + 24 * 23 * 5)."""
    single = [Meaning(kind) for kind in KINDS]
    counts = [Meaning(kind, number) for kind in KINDS for number in NUMBERS.values()]
    pairs = [
        Meaning(first, 1, relation, second)
        for first, second in permutations(KINDS, 2)
        for relation in ("and", *RELATIONS)
    ]
    return single + counts + pairs


_COLOUR = "|".join(COLOURS)
_SINGULAR = "|".join(SHAPES)
_PLURALS = {_plural(shape): shape for shape in SHAPES}
_SINGLE = rf"an? ({_COLOUR}) ({_SINGULAR})"
_PATTERN_SINGLE = re.compile(_SINGLE)
_PATTERN_COUNT = re.compile(rf"({'|'.join(NUMBERS)}) ({_COLOUR}) ({'|'.join(_PLURALS)})")
_PATTERN_PAIR = re.compile(rf"{_SINGLE} (and|{'|'.join(RELATIONS)}) {_SINGLE}")


def parse(prompt: str) -> Meaning:
    """Read a prompt.

    Raises:
        ConfigError: the prompt is not of the grammar.
    """
    text = " ".join(prompt.lower().split()).rstrip(".")
    if match := _PATTERN_SINGLE.fullmatch(text):
        return Meaning((match[1], match[2]))
    if match := _PATTERN_COUNT.fullmatch(text):
        return Meaning((match[2], _PLURALS[match[3]]), NUMBERS[match[1]])
    if match := _PATTERN_PAIR.fullmatch(text):
        joint: Relation = next(r for r in ("and", *RELATIONS) if r == match[3])
        first, second = (match[1], match[2]), (match[4], match[5])
        if first != second:
            return Meaning(first, 1, joint, second)
    raise ConfigError(
        f"prompt {prompt!r} is not of the Shapes world. Allowed: 'a <colour> <shape>', "
        "'two|three|four <colour> <shape>s', 'a <colour> <shape> and|left of|right of|above|below "
        f"a <colour> <shape>' with two different objects; colours {', '.join(COLOURS)}; "
        f"shapes {', '.join(SHAPES)}."
    )


def relation_holds(relation: Relation, first: Centre, second: Centre) -> bool:
    """Whether centres, (x, y) in pixels, differ by the least margin along the relation's axis."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    return {
        "and": True,
        "left of": dx >= RELATION_MARGIN,
        "right of": -dx >= RELATION_MARGIN,
        "above": dy >= RELATION_MARGIN,
        "below": -dy >= RELATION_MARGIN,
    }[relation]


def satisfies(scene: Scene, meaning: Meaning) -> bool:
    """Whether the scene holds exactly the named objects, in the named relation."""
    if Counter(thing.kind for thing in scene) != meaning.wanted:
        return False
    if meaning.relation is None:
        return True
    first, second = sorted(scene, key=lambda thing: thing.kind != meaning.first)
    return relation_holds(meaning.relation, first.centre, second.centre)


def true_meanings(scene: Scene) -> list[Meaning]:
    """All prompts that are true of `scene` (none when no prompt can say it)."""
    kinds = Counter(thing.kind for thing in scene)
    if len(kinds) == 1 and len(scene) <= max(NUMBERS.values()):
        return [Meaning(scene[0].kind, len(scene))]
    if len(scene) != 2:
        return []
    return [
        Meaning(a.kind, 1, relation, b.kind)
        for a, b in permutations(scene)
        for relation in ("and", *RELATIONS)
        if relation_holds(relation, a.centre, b.centre)
    ]
