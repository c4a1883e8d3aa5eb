"""Sets of step or unit indices, checked in one place."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from gensift.errors import ConfigError


def checked_positions(name: str, given: Iterable[int], size: int) -> tuple[int, ...]:
    """The different indices in `given`, rising.

    Args:
        name: of the argument, for the message.
        given: indices in any order, repeats allowed.
        size: how many things there are to index.

    Raises:
        ConfigError: an index is not one of 0 to `size` - 1.
    """
    found = sorted({operator.index(position) for position in given})
    outside = [position for position in found if not 0 <= position < size]
    if outside:
        raise ConfigError(
            f"`{name}` holds {outside}; allowed are the {size} indices counted from 0; "
            "leave out the others (negative ones do not count from the end)."
        )
    return tuple(found)
