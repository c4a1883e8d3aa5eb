"""Copies of objects that have something put on: `copy.deepcopy` and `pickle` make plain ones.

What is put on lies in the attributes of the instance, bound to that very instance: a copy that took
it along would run the modules of the original. Both ways of copying ask the instance for its
`__reduce_ex__`, so that is where it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from gensift.errors import ConfigError

State: TypeAlias = dict[str, Any]
"""The attributes of an instance, by name."""

TakeOff: TypeAlias = Callable[[State], None]
"""Makes the attributes those of an object that nothing was put on, in place."""

_ABSENT = object()
_ASKED = "__reduce_ex__"


class _PlainCopies:
    """Answers for one object when it is copied.

    Attributes:
        layers: take off what was put on, the latest last.
    """

    def __init__(self, owner: object) -> None:
        self.layers: list[TakeOff] = []
        self._owner = owner

    def __call__(self, protocol: int) -> tuple[Any, ...]:
        reduced = type(self._owner).__reduce_ex__(self._owner, protocol)
        # A text would name a global; the third part is what the instance consists of.
        if isinstance(reduced, str) or not isinstance(reduced[2], dict):
            raise cannot_be_copied(self._owner)
        state = {name: value for name, value in reduced[2].items() if name != _ASKED}
        for take_off in reversed(self.layers):
            take_off(state)
        return *reduced[:2], state, *reduced[3:]


def leave_out_of_copies(owner: object, take_off: TakeOff) -> Callable[[], None]:
    """Let copies of `owner` be made without something that was put on it.

    Args:
        owner: has it on.
        take_off: undoes that in the attributes of a copy; refuses to where it cannot.

    Returns:
        What to call when it is off again; `owner` is as before once all that was put on is off.
    """
    own = vars(owner)
    copies: _PlainCopies = own.setdefault(_ASKED, _PlainCopies(owner))
    copies.layers.append(take_off)

    def forget() -> None:
        if take_off in copies.layers:
            copies.layers.remove(take_off)
        if not copies.layers and own.get(_ASKED) is copies:
            del own[_ASKED]

    return forget


def without_attribute(owner: object, name: str, before: object = _ABSENT) -> TakeOff:
    """Takes off the present attribute `name` of `owner`, in favour of `before` if there is one."""
    installed = vars(owner)[name]

    def take_off(state: State) -> None:
        if state.get(name) is not installed:
            raise cannot_be_copied(owner)
        if before is _ABSENT:
            del state[name]
        else:
            state[name] = before

    return take_off


def attribute_before(owner: object, name: str) -> object:
    """An attribute of the instance, for `without_attribute`: asked for before it is replaced."""
    return vars(owner).get(name, _ABSENT)


def cannot_be_copied(owner: object) -> ConfigError:
    """The error of an object with other things on than those of this library."""
    return ConfigError(
        f"{type(owner).__name__} cannot be copied while it has a cache or a search of gensift and "
        "hooks of others on; take the cache off first (disable_cache), and put it on the copy."
    )
