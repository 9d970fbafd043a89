"""Pickle options that hold functions, for use in other processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import msgspec

__all__ = ["PortableStruct", "portable"]


class PortableStruct(msgspec.Struct, frozen=True):
    """A struct that can be pickled even if its fields hold lambdas or functions of a notebook.

    DataLoader workers that are not forked (the default on macOS, and with Python 3.14) receive
    their data by pickle, which stores functions by name only.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        values = {name: portable(getattr(self, name)) for name in self.__struct_fields__}
        return _make, (type(self), values)


def _make(kind: type[PortableStruct], values: dict[str, Any]) -> PortableStruct:
    return kind(**values)


def portable(value: Any) -> Any:  # noqa: ANN401
    """Return an object that unpickles as `value`; for a function, with what it consists of."""
    if not isinstance(value, FunctionType) or _has_a_place(value):
        return value
    import loky

    return loky.wrap_non_picklable_objects(value, keep_wrapper=False)


def _has_a_place(function: FunctionType) -> bool:
    """Whether other processes find a function by its name, as pickle stores it."""
    module = sys.modules.get(function.__module__)
    here = getattr(module, function.__qualname__, None)
    return here is function and function.__module__ != "__main__"
