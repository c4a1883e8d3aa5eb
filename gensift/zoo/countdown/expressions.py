"""Arithmetic over + - * and parentheses: reading it, its values, and its normal form."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gensift.errors import ConfigError

APPLY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
MAX_SYMBOLS = 99
"""Longer texts are refused: the parser calls itself at every parenthesis."""

# Ten and more digits fall apart into two neighbouring numbers, which no expression has.
_SYMBOL = re.compile(r"\s*(\d{1,9}|[-+*()])", re.ASCII)


@dataclass(frozen=True)
class Operation:
    """Two expressions and what joins them."""

    symbol: str
    left: Expression
    right: Expression


Expression = int | Operation


def parse_expression(text: str) -> Expression | None:
    """Read an expression, with or without blanks; None when it is not well formed."""
    symbols = _split(text)
    if not 0 < len(symbols) <= MAX_SYMBOLS:
        return None
    try:
        return _Parser(symbols).whole()
    except _NotWellFormed:
        return None


def _split(text: str) -> list[str]:
    """The symbols of a text; none when it holds anything else."""
    symbols, end, text = [], 0, text.rstrip()
    while match := _SYMBOL.match(text, end):
        symbols.append(match[1])
        end = match.end()
    return symbols if end == len(text) else []


class _NotWellFormed(Exception):
    """The symbols are no expression."""


class _Parser:
    """Recursive descent: a sum of products of numbers and parentheses, all from left to right."""

    def __init__(self, symbols: list[str]) -> None:
        self._symbols = [*symbols, ""]
        self._next = 0

    def whole(self) -> Expression:
        found = self._sum()
        if self._peek():
            raise _NotWellFormed
        return found

    def _sum(self) -> Expression:
        left = self._product()
        while self._peek() in ("+", "-"):
            left = Operation(self._pop(), left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._atom()
        while self._peek() == "*":
            left = Operation(self._pop(), left, self._atom())
        return left

    def _atom(self) -> Expression:
        symbol = self._peek()
        if symbol.isdigit():
            return int(self._pop())
        if symbol != "(":
            raise _NotWellFormed
        self._pop()
        inside = self._sum()
        if self._peek() != ")":
            raise _NotWellFormed
        self._pop()
        return inside

    def _peek(self) -> str:
        return self._symbols[self._next]

    def _pop(self) -> str:
        symbol = self._symbols[self._next]
        self._next += 1
        return symbol


def value_of(expression: Expression) -> int:
    """What an expression comes to."""
    if isinstance(expression, int):
        return expression
    return APPLY[expression.symbol](value_of(expression.left), value_of(expression.right))


def leaves(expression: Expression) -> Iterator[int]:
    """The numbers of an expression, from left to right."""
    if isinstance(expression, int):
        yield expression
    else:
        yield from leaves(expression.left)
        yield from leaves(expression.right)


def results(expression: Expression) -> Iterator[int]:
    """The values of all its operations, its own last."""
    if isinstance(expression, Operation):
        yield from results(expression.left)
        yield from results(expression.right)
        yield value_of(expression)


def canonical(text: str) -> str:
    """The one form shared by all expressions that commutation and associativity make equal.

    Those are laws of + and *: "5 * ( 2 * 3 )" and "3 * 5 * 2" are one solution, while
    "( 9 - 2 ) + 5", "( 9 + 5 ) - 2" and "9 - ( 2 - 5 )" take three different ways.

    Raises:
        ConfigError: the text is no expression.
    """
    expression = parse_expression(text)
    if expression is None:
        raise ConfigError(
            f"{text!r} is no expression; give numbers, + - * and parentheses, at most "
            f"{MAX_SYMBOLS} symbols."
        )
    return _normal(expression)


def _normal(expression: Expression) -> str:
    if isinstance(expression, int):
        return str(expression)
    symbol = expression.symbol
    if symbol == "-":
        return f"{_enclosed(expression.left)} - {_enclosed(expression.right)}"
    return f" {symbol} ".join(sorted(_enclosed(operand) for operand in _nested(symbol, expression)))


def _nested(symbol: str, expression: Expression) -> Iterator[Expression]:
    """What nested operations of one symbol join."""
    if isinstance(expression, int) or expression.symbol != symbol:
        yield expression
        return
    yield from _nested(symbol, expression.left)
    yield from _nested(symbol, expression.right)


def _enclosed(expression: Expression) -> str:
    return str(expression) if isinstance(expression, int) else f"( {_normal(expression)} )"
