"""Look at the parameters of functions that others wrote."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["signature_of"]


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function or class, without evaluating its annotations.

    Since Python 3.14 they are evaluated when somebody asks for them, and may name what is imported
    for type checkers only.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.STRING)
    return inspect.signature(function)
