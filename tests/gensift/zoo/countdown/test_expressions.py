"""Reading arithmetic, and its normal form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensift.errors import ConfigError
from gensift.zoo.countdown.expressions import (
    MAX_SYMBOLS,
    Expression,
    Operation,
    canonical,
    leaves,
    parse_expression,
    results,
    value_of,
)

EXPRESSIONS = st.recursive(
    st.integers(0, 100),
    lambda inner: st.builds(Operation, st.sampled_from("+-*"), inner, inner),
    max_leaves=8,
)


def written(expression: Expression) -> str:
    if isinstance(expression, int):
        return str(expression)
    return f"({written(expression.left)}{expression.symbol}{written(expression.right)})"


@given(EXPRESSIONS)
def test_what_is_written_is_read_again(expression: Expression) -> None:
    text = written(expression)
    assert parse_expression(text) == expression
    spaced = text.replace("(", " ( ").replace(")", " )  ").replace("+", " + ")
    assert parse_expression(spaced) == expression
    # The interpreter's own arithmetic is another implementation.
    assert value_of(expression) == eval(text)


@pytest.mark.parametrize("text", ["2+3*4", "2*3+4", "20-3-4", "20-3+4", "2*3*4", "7", "((7))"])
def test_precedence_is_that_of_arithmetic(text: str) -> None:
    found = parse_expression(text)
    assert found is not None and value_of(found) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "(",
        ")",
        "3 +",
        "+ 3",
        "- 3",
        "3 4",
        "( 3 + 4",
        "3 + 4 )",
        "3 + + 4",
        "3 / 4",
        "3 + x",
        "3 + 4 = 7",
        "2 ** 3",
        "1.5 + 2",
        "(3)(4)",
        "1" * 5000,
        "٣ + 4",
        "(" * 5000 + "3" + ")" * 5000,
        "+".join("3" * MAX_SYMBOLS),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert parse_expression(text) is None


def test_leaves_and_results() -> None:
    found = parse_expression("( 9 - 2 ) * 5 + 1")
    assert found is not None
    assert list(leaves(found)) == [9, 2, 5, 1]
    assert list(results(found)) == [7, 35, 36]


def swapped(expression: Expression) -> Expression:
    """Every sum and product turned round."""
    if isinstance(expression, int):
        return expression
    left, right = swapped(expression.left), swapped(expression.right)
    if expression.symbol == "-":
        return Operation("-", left, right)
    return Operation(expression.symbol, right, left)


def regrouped(expression: Expression) -> Expression:
    """Every ( a o b ) o c as a o ( b o c )."""
    if isinstance(expression, int):
        return expression
    left, right, symbol = expression.left, expression.right, expression.symbol
    if symbol != "-" and isinstance(left, Operation) and left.symbol == symbol:
        return regrouped(Operation(symbol, left.left, Operation(symbol, left.right, right)))
    return Operation(symbol, regrouped(left), regrouped(right))


@given(EXPRESSIONS)
def test_order_and_grouping_do_not_change_the_canonical_form(expression: Expression) -> None:
    form = canonical(written(expression))
    assert canonical(written(swapped(expression))) == form
    assert canonical(written(regrouped(expression))) == form
    again = parse_expression(form)
    assert again is not None and value_of(again) == value_of(expression)
    assert canonical(form) == form


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("( 2 + 3 ) * 4", "4 * (3+2)", True),
        ("( 2 * 3 ) * 4", "3 * ( 4 * 2 )", True),
        ("( 9 - 2 ) + 5", "5 + ( 9 - 2 )", True),
        ("( 9 - 2 ) + 5", "( 9 + 5 ) - 2", False),
        ("( 9 + 5 ) - 2", "9 - ( 2 - 5 )", False),
        ("2 * ( 3 + 4 )", "( 2 * 3 ) + 4", False),
        ("( 2 * 3 ) + 4", "( 2 * 4 ) + 3", False),
    ],
)
def test_which_solutions_are_one(first: str, second: str, are_one: bool) -> None:
    assert (canonical(first) == canonical(second)) is are_one


def test_the_canonical_form_of_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'3 \+' is no expression"):
        canonical("3 +")
