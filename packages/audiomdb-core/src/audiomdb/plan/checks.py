"""Check options that are numbers."""

from __future__ import annotations

from functools import partial
from numbers import Real

from audiomdb import checks
from audiomdb.errors import PlanError

__all__ = ["EPOCHS_OPTION", "above_zero", "whole_number"]

EPOCHS_OPTION = "epochs, unless None for no end,"
"""Name of the option `epochs` in the message of `whole_number`."""

whole_number = partial(checks.whole_number, error=PlanError)
"""`audiomdb.checks.whole_number`, but it raises `PlanError`."""


def above_zero(value: object) -> bool:
    """Whether a value is a number above 0, of Python or NumPy. It may be infinite."""
    return isinstance(value, Real) and float(value) > 0
