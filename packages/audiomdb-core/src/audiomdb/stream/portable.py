"""Pickle options that hold functions, for use in other processes."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import msgspec

__all__ = ["PortableStruct"]


class PortableStruct(msgspec.Struct, frozen=True):
    """A struct that can be pickled even if its fields hold lambdas or functions of a notebook.

    DataLoader workers that are not forked (the default on macOS, and with Python 3.14) receive
    their data by pickle, which stores functions by name only.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        values = {name: _portable(getattr(self, name)) for name in self.__struct_fields__}
        return _make, (type(self), values)


def _make(kind: type[PortableStruct], values: dict[str, Any]) -> PortableStruct:
    return kind(**values)


def _portable(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, FunctionType):
        return value
    import loky

    return loky.wrap_non_picklable_objects(value, keep_wrapper=False)
