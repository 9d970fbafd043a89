"""Check options: numbers, bools and functions."""

from __future__ import annotations

import math
from operator import index
from typing import Any, SupportsIndex

import numpy as np

__all__ = [
    "at_least_one",
    "check_function",
    "is_finite",
    "true_false_or_none",
    "true_or_false",
    "whole_number",
]


def whole_number(
    name: str,
    value: SupportsIndex,
    *,
    low: int = 0,
    high: int | None = None,
    error: type[Exception] = ValueError,
) -> int:
    """Return `value` as an int from `low` to `high`, both included.

    NumPy integers are accepted. Bools are not, nor are floats, not even whole ones, since a rounded
    number may be another one than was meant.

    Raises:
        ValueError: or `error`, if it is not a whole number or out of range. For a number out of
            range, the message names the nearest legal value.
    """
    legal = f"a whole number from {low} " + ("on" if high is None else f"to {high}")
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None:
        raise error(f"{name} must be {legal}, not {value!r}")
    nearest = max(number, low) if high is None else min(max(number, low), high)
    if number != nearest:
        raise error(f"{name} must be {legal}, not {number}; the nearest legal value: {nearest}")
    return number


def at_least_one(name: str, value: SupportsIndex | None) -> int | None:
    """Return an option that is a whole number above 0, or else None.

    Raises:
        ValueError: it is something else.
    """
    return None if value is None else whole_number(name, value, low=1)


def true_or_false(name: str, value: object) -> bool:
    """Return an option that is a bool, of Python or NumPy.

    Nothing else is taken for one: the text "false" would be true.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r:.80}, expected True or False")
    return bool(value)


def true_false_or_none(name: str, value: object) -> bool | None:
    """Return an option that is a bool as in `true_or_false`, or else None.

    Raises:
        TypeError: it is something else.
    """
    return None if value is None else true_or_false(name, value)


def is_finite(value: Any) -> bool:  # noqa: ANN401
    """Whether a value is a number and, as a float, finite."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def check_function(name: str, value: object) -> None:
    """Require an option that can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} is {value!r:.80}, expected a function")
